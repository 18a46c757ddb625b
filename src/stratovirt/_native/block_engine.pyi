from stratovirt._native.block_queue import BlockQueue
from stratovirt._native.block_requests import BlockRequests
from stratovirt._native.board_time import BoardTime
from stratovirt._native.disk import Disk
from stratovirt._native.io_loop import Engine
from stratovirt._native.uring import SpareRings

class BlockEngine(Engine):
    is_asynchronous: bool
    requests: BlockRequests
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
