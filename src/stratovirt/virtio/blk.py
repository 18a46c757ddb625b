"""Block device (virtio 1.2, section 5.2): a disk image served by the native engine."""

from __future__ import annotations

import os
import struct

from stratovirt._native.block_engine import MOST_RANGES, BlockEngine, BlockQueue
from stratovirt.block.image import Image
from stratovirt.runtime.log import Log
from stratovirt.runtime.loop import READABLE, Loop
from stratovirt.virtio.device import ActiveQueue, VirtioDevice
from stratovirt.virtio.engine_thread import EngineThread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.config.devices import VirtioBlk
    from stratovirt.machine.device_host import DeviceHost

log = Log(__name__)

COUNTERS = {
    "rd_bytes": "read_bytes",
    "wr_bytes": "written_bytes",
    "rd_operations": "reads",
    "wr_operations": "writes",
    "flush_operations": "flushes",
}
"""Names of query-blockstats and of the engine's counters."""

QUEUE_SIZE = 256
SEG_MAX = QUEUE_SIZE - 2
"""Data segments of one request: a chain less its header and its status."""
BLOCK_SIZE = 512

F_SEG_MAX, F_RO, F_BLK_SIZE, F_FLUSH, F_MQ = 1 << 2, 1 << 5, 1 << 6, 1 << 9, 1 << 12
F_DISCARD, F_WRITE_ZEROES = 1 << 13, 1 << 14
MOST_SECTORS = 1 << 22
"""Sectors of one range to discard or to zero: 2 GiB."""

CONFIG = struct.Struct("<QIIHBBI8xBxHIIIIIB3x")
"""capacity, size_max, seg_max, geometry (3 fields), blk_size, topology, writeback, num_queues,
and for discard and write-zeroes the most sectors and ranges, and alignment or may_unmap."""


class Blk(VirtioDevice):
    """One disk. Requests run in the engine's own thread and never meet Python."""

    device_id = 2

    def __init__(self, options: VirtioBlk, image: Image, loop: Loop) -> None:
        super().__init__()
        self.name = options.id or f"virtio-blk({options.drive})"
        self.image = image
        self._serial = (options.serial or "").encode()
        self._queue_count = options.num_queues
        self._loop = loop
        self._queues: list[ActiveQueue] = []
        self._features = 0
        self._engine: BlockEngine | None = None
        self._counted = dict.fromkeys(COUNTERS, 0)
        self._thread: EngineThread | None = None
        self._failure_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        loop.watch(self._failure_fd, READABLE, self._failed)

    @property
    def queue_sizes(self) -> tuple[int, ...]:
        """The request queues."""
        return (QUEUE_SIZE,) * self._queue_count

    @property
    def features(self) -> int:
        """Flush always; read-only, discarding or of several queues as drive and options are."""
        features = F_SEG_MAX | F_BLK_SIZE | F_FLUSH | (F_RO if self.image.readonly else 0)
        if self.image.can_discard:
            features |= F_DISCARD | F_WRITE_ZEROES
        return features | (F_MQ if self._queue_count > 1 else 0)

    def config_space(self) -> bytes:
        """struct virtio_blk_config up to write_zeroes_may_unmap (section 5.2.4)."""
        return CONFIG.pack(
            self.image.sectors, 0, SEG_MAX, 0, 0, 0, BLOCK_SIZE, 1, self._queue_count,
            MOST_SECTORS, MOST_RANGES, 1, MOST_SECTORS, MOST_RANGES, 1,
        )  # fmt: skip

    def activate(self, queues: list[ActiveQueue], features: int) -> None:
        """Start the engine on the driver's queue."""
        self._queues, self._features = queues, features
        self._start()

    def deactivate(self) -> None:
        """Stop the engine; requests it has taken are completed first."""
        self._stop()
        self._queues = []

    def quiesce(self) -> None:
        """Complete what is in flight and rest."""
        self._stop()

    def resume(self) -> None:
        """Serve again from where the rings are."""
        if self._queues and self._engine is None:
            self._start()

    def close(self) -> None:
        """Give the image back."""
        self._loop.unwatch(self._failure_fd)
        os.close(self._failure_fd)
        self.image.close()

    def _start(self) -> None:
        if not self._queues:
            return
        engine = BlockEngine(
            [BlockQueue(queue.ring, queue.kick_fd, queue.notifier) for queue in self._queues],
            fd=self.image.fd,
            buffered_fd=self.image.buffered_fd,
            direct_align=self.image.direct_align,
            capacity=self.image.sectors,
            readonly=self.image.readonly,
            writeback=bool(self._features & F_FLUSH),
            serial=self._serial,
            failure_fd=self._failure_fd,
            iops=self.image.drive.throttling_iops_total,
        )
        self._engine = engine
        self._thread = EngineThread(engine)

    def _stop(self) -> None:
        if self._thread is not None:
            self._thread.stop()
            self._thread = None
            self._counted = self.statistics()
            self._engine = None

    def statistics(self) -> dict[str, int]:
        """What the disk has done since the machine started, named as in query-blockstats."""
        engine = self._engine
        if engine is None:
            return dict(self._counted)
        return {
            name: self._counted[name] + int(getattr(engine, counter))
            for name, counter in COUNTERS.items()
        }

    def _failed(self, _events: int) -> None:
        os.eventfd_read(self._failure_fd)
        reasons = [queue.ring.failure for queue in self._queues if queue.ring.failure]
        self.broken(reasons[0] if reasons else "the engine stopped")


def make(options: VirtioBlk, host: DeviceHost) -> Blk:
    """The device for `options`."""
    return Blk(options, Image(host.config.drives[options.drive]), host.loop)
