from stratovirt._native.interrupt import Notifier
from stratovirt._native.virtqueue import Virtqueue

MOST_RANGES: int

def can_punch_holes(fd: int, size: int) -> bool: ...

class BlockQueue:
    def __init__(self, ring: Virtqueue, kick_fd: int, notifier: Notifier) -> None: ...

class BlockEngine:
    is_asynchronous: bool
    reads: int
    writes: int
    flushes: int
    read_bytes: int
    written_bytes: int
    def __init__(
        self,
        queues: list[BlockQueue],
        *,
        fd: int,
        buffered_fd: int,
        direct_align: int,
        capacity: int,
        readonly: bool,
        writeback: bool,
        serial: bytes,
        failure_fd: int,
        iops: int = 0,
        uring: bool = True,
    ) -> None: ...
    def request_stop(self) -> None: ...
    def run(self) -> None: ...
