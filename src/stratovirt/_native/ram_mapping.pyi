from collections.abc import Sequence

POLICIES: dict[str, int]

class RamMapping:
    size: int
    address: int
    def __init__(
        self,
        size: int,
        fd: int = -1,
        shared: bool = False,
        dump: bool = True,
        *,
        reserved: bool = False,
    ) -> None: ...
    def map(
        self,
        offset: int,
        size: int,
        fd: int,
        shared: bool,
        dump: bool,
        *,
        file_offset: int = 0,
    ) -> None: ...
    def bind(self, offset: int, size: int, policy: str, nodes: Sequence[int]) -> None: ...
    def populate(self, offset: int, size: int) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
