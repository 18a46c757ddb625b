"""Block device (virtio 1.2, section 5.2): a disk image served by the native engine."""

from __future__ import annotations

import os
import struct

from stratovirt._native.block_engine import BlockEngine
from stratovirt._native.block_queue import BlockQueue
from stratovirt._native.disk import MOST_RANGES, SECTOR, Disk
from stratovirt.block.image import Image
from stratovirt.config.buses import DeviceId
from stratovirt.config.devices import QUEUE_SIZE
from stratovirt.config.options import opt
from stratovirt.runtime.eventfds import forget_signal, take_signal
from stratovirt.runtime.log import Log
from stratovirt.runtime.loop import READABLE
from stratovirt.snapshot.errors import SnapshotError
from stratovirt.snapshot.state import FLAG, U64, State
from stratovirt.virtio.device import ActiveQueue, VirtioDevice
from stratovirt.virtio.engine_thread import EngineThread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.devices.device_host import DeviceHost
    from stratovirt.runtime.io_thread import IoThread

log = Log(__name__)

COUNTERS = {
    "rd_bytes": "read_bytes",
    "wr_bytes": "written_bytes",
    "rd_operations": "reads",
    "wr_operations": "writes",
    "flush_operations": "flushes",
}
"""Names of query-blockstats and of the engine's counters."""

HEADER_AND_STATUS = 2
"""Descriptors of a request that carry no data."""

F_SEG_MAX, F_RO, F_BLK_SIZE, F_FLUSH, F_MQ = 1 << 2, 1 << 5, 1 << 6, 1 << 9, 1 << 12
F_TOPOLOGY, F_DISCARD, F_WRITE_ZEROES = 1 << 10, 1 << 13, 1 << 14
MOST_SECTORS = 1 << 22
"""Sectors of one range to discard or to zero: 2 GiB."""

CONFIG = struct.Struct("<QIIHBBIBBHIBxHIIIIIB3x")
"""capacity, size_max, seg_max, geometry (3 fields), blk_size, topology (4 fields), writeback,
num_queues, and for discard and write-zeroes the most sectors and ranges, and alignment or
may_unmap."""

NO_MEDIUM = Disk(-1, -1, direct_align=0, capacity=0, readonly=False)


class BlkState(State):
    """The medium's capacity and mode, as the guest sees them; each clone's own image must match."""

    sectors: int = opt(U64)
    readonly: bool = opt(FLAG)


class Blk(VirtioDevice):
    """One disk, whose requests are served by native code only.

    Its medium, `image`, may be inserted and ejected: without one the disk has no sectors and
    `idle_thread` fails each request with an I/O error.
    """

    device_id = DeviceId.BLOCK
    rings = 1
    state_type = BlkState

    def __init__(
        self,
        name: str,
        queue_count: int,
        host: DeviceHost,
        idle_thread: IoThread | None = None,
        queue_size: int = QUEUE_SIZE,
    ) -> None:
        super().__init__()
        self.name = name
        self.image: Image | None = None
        self._serial = b""
        self._iothread = self.idle_thread = idle_thread
        self._queue_count, self._queue_size = queue_count, queue_size
        self._physical_block_size = SECTOR
        self._process, self._loop = host.process, host.loop
        self._clock = host.clock
        self._queues: list[ActiveQueue] = []
        self._features = 0
        self._engine: BlockEngine | None = None
        self._counted = dict.fromkeys(COUNTERS, 0)
        self._thread: EngineThread | None = None
        self._failure_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._loop.watch(self._failure_fd, READABLE, self._engine_failed, self._fault)

    @property
    def queue_sizes(self) -> tuple[int, ...]:
        """The request queues."""
        return (self._queue_size,) * self._queue_count

    @property
    def features(self) -> int:
        """Flush always; read-only, discard and multiqueue by the image and the options."""
        features = F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY
        if self.image is None or self.image.can_discard:
            # An empty slot offers discard; a later image that cannot do it fails the request.
            features |= F_DISCARD | F_WRITE_ZEROES
        if self.image is not None and self.image.readonly:
            features |= F_RO
        return features | (F_MQ if self._queue_count > 1 else 0)

    def config_space(self) -> bytes:
        """struct virtio_blk_config up to write_zeroes_may_unmap (section 5.2.4)."""
        # A driver may use 512-byte sectors; topology gives the physical block size.
        sectors = self.image.block_size // SECTOR if self.image else 1
        written_at_once = max(sectors, self._physical_block_size // SECTOR)
        return CONFIG.pack(
            self.image.sectors if self.image else 0, 0, self._queue_size - HEADER_AND_STATUS,
            0, 0, 0, SECTOR,
            written_at_once.bit_length() - 1, 0, written_at_once, 0, 1,
            self._queue_count, MOST_SECTORS, MOST_RANGES, sectors, MOST_SECTORS, MOST_RANGES, 1,
        )  # fmt: skip

    def insert(
        self,
        image: Image,
        serial: str | None,
        iothread: IoThread | None,
        physical_block_size: int = SECTOR,
    ) -> None:
        """Insert a medium; the device owns `image` from now on and closes it."""
        self._stop()
        self.image, self._iothread = image, iothread
        self._physical_block_size = physical_block_size
        self._serial = (serial or "").encode()
        self._counted = dict.fromkeys(COUNTERS, 0)
        self._start()
        self.config_changed()

    def eject(self) -> Image:
        """Complete requests in flight and remove the medium; the caller owns it again."""
        assert self.image is not None
        self._stop()
        image, self.image = self.image, None
        self._serial, self._iothread = b"", self.idle_thread
        self._physical_block_size = SECTOR
        self._start()
        self.config_changed()
        return image

    def activate(self, queues: list[ActiveQueue], features: int) -> None:
        """Start the engine on the driver's queues."""
        self._queues, self._features = queues, features
        self._start()

    def deactivate(self) -> None:
        """Stop the engine; requests it has taken are completed first."""
        self._stop()
        self._queues = []

    def quiesce(self) -> None:
        """Complete requests in flight and stop the engine."""
        super().quiesce()
        self._stop()

    def resume(self) -> None:
        """Start the engine again at the rings' positions."""
        super().resume()
        self._start()

    @property
    def _shape(self) -> BlkState:
        if self.image is None:
            return BlkState(sectors=0, readonly=False)
        return BlkState(sectors=self.image.sectors, readonly=self.image.readonly)

    def save(self) -> BlkState:
        """The medium's capacity and mode; its content is not saved."""
        return self._shape

    def restore(self, state: BlkState) -> None:
        """Check that the medium has the saved capacity and mode; raises SnapshotError."""
        shape = self._shape
        if shape.sectors != state.sectors:
            raise SnapshotError(
                f"{self.name}: the disk has {shape.sectors} sectors and the snapshot's had "
                f"{state.sectors}"
            )
        if shape.readonly != state.readonly:
            words = {True: "readonly=on", False: "readonly=off"}
            raise SnapshotError(
                f"{self.name}: the disk is {words[shape.readonly]} and the snapshot's was "
                f"{words[state.readonly]}"
            )

    def close(self) -> None:
        """Close the image and the failure eventfd."""
        self._loop.unwatch(self._failure_fd)
        os.close(self._failure_fd)
        if self.image is not None:
            self.image.close()

    def _start(self) -> None:
        if not self._queues or self.is_resting or self._thread is not None:
            return
        image = self.image
        engine: BlockEngine | None = None
        try:
            engine = BlockEngine(
                [BlockQueue(queue.ring, queue.kick_fd, queue.notifier) for queue in self._queues],
                image.disk if image else NO_MEDIUM,
                writeback=bool(self._features & F_FLUSH),
                serial=self._serial,
                failure_fd=self._failure_fd,
                iops=image.drive.throttling_iops_total if image else 0,
                time=self._clock.native,
                rings=self._process.rings if image and image.uses_uring else None,
            )
            self._thread = EngineThread(engine, self._iothread, f"blk-{self.name}")
        except OSError as error:
            if engine is not None:
                engine.release()
            self.broken(str(error))
            return
        self._engine = engine

    def _stop(self) -> None:
        if self._thread is not None:
            self._thread.stop()
            self._thread = None
            self._counted = self.statistics()
            if self._engine is not None:
                self._engine.release()
            self._engine = None
            # A failure signalled by this engine does not concern the next one.
            forget_signal(self._failure_fd)

    def statistics(self) -> dict[str, int]:
        """Counters since the medium was inserted, named as in query-blockstats.

        A medium is inserted by device_add only: in QEMU, too, an added device counts from zero.
        """
        engine = self._engine
        if engine is None:
            return dict(self._counted)
        return {
            name: self._counted[name] + int(getattr(engine.requests, counter))
            for name, counter in COUNTERS.items()
        }

    def _fault(self, error: Exception) -> None:
        self.failed(error)

    def _engine_failed(self, _events: int) -> None:
        if not take_signal(self._failure_fd):
            return
        reasons = [queue.ring.failure for queue in self._queues if queue.ring.failure]
        self.broken(reasons[0] if reasons else "the engine stopped")
