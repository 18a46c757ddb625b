MOST_RANGES: int
SECTOR: int

def direct_alignment(fd: int) -> int: ...
def device_block_size(fd: int) -> int: ...
def can_punch_holes(fd: int, size: int) -> bool: ...

class Disk:
    def __init__(
        self,
        fd: int,
        buffered_fd: int,
        *,
        direct_align: int,
        capacity: int,
        readonly: bool,
        block_size: int = 512,
    ) -> None: ...
