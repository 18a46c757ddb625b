from stratovirt._native.disk import Disk
from stratovirt._native.uring import SpareRings

RING_ENTRIES: int

class BlockRequests:
    reads: int
    writes: int
    flushes: int
    read_bytes: int
    written_bytes: int
    def __init__(
        self, disk: Disk, *, writeback: bool, serial: bytes, rings: SpareRings | None
    ) -> None: ...
    def release(self) -> None: ...
