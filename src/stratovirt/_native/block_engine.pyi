from stratovirt._native.board_time import BoardTime
from stratovirt._native.disk import Disk
from stratovirt._native.interrupt import Notifier
from stratovirt._native.io_loop import Engine
from stratovirt._native.uring import SpareRings
from stratovirt._native.virtqueue import Virtqueue

RING_ENTRIES: int

class BlockQueue:
    def __init__(self, ring: Virtqueue, kick_fd: int, notifier: Notifier) -> None: ...

class BlockEngine(Engine):
    is_asynchronous: bool
    reads: int
    writes: int
    flushes: int
    read_bytes: int
    written_bytes: int
    def __init__(
        self,
        queues: list[BlockQueue],
        disk: Disk,
        *,
        writeback: bool,
        serial: bytes,
        failure_fd: int,
        iops: int = 0,
        time: BoardTime | None = None,
        rings: SpareRings | None = None,
    ) -> None: ...
    def release(self) -> None: ...
