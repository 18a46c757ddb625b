"""The virtio-mmio transport, version 2 (virtio 1.2, section 4.2)."""

from __future__ import annotations

import os

from stratovirt._native.guest_memory import GuestMemory
from stratovirt._native.interrupt import InterruptStatus, Notifier
from stratovirt._native.virtqueue import Virtqueue, VirtqueueError
from stratovirt.config.options import opt
from stratovirt.memory.address_space import AddressSpace, IoRegion, NativeRegion
from stratovirt.runtime.log import Log
from stratovirt.runtime.trace_events import VIRTIO_BROKEN, VIRTIO_FEATURES, VIRTIO_STATUS
from stratovirt.snapshot.state import (
    FLAG,
    U8,
    U16,
    U32,
    U64,
    Each,
    SnapshotError,
    State,
    Struct,
    Unread,
)
from stratovirt.virtio.device import RING_EVENT_IDX, VERSION_1, ActiveQueue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from stratovirt.accel.base import Accelerator
    from stratovirt.virtio.device import VirtioDevice

log = Log(__name__)

MAGIC = 0x7472_6976
VERSION = 2
VENDOR = 0x5654_5253  # "SRTV"
SLOT_BYTES = 0x200

MAGIC_VALUE, VERSION_REG, DEVICE_ID, VENDOR_ID = 0x000, 0x004, 0x008, 0x00C
DEVICE_FEATURES, DEVICE_FEATURES_SEL = 0x010, 0x014
DRIVER_FEATURES, DRIVER_FEATURES_SEL = 0x020, 0x024
QUEUE_SEL, QUEUE_SIZE_MAX, QUEUE_SIZE, QUEUE_READY, QUEUE_NOTIFY = 0x030, 0x034, 0x038, 0x044, 0x050
INTERRUPT_STATUS, INTERRUPT_ACK, STATUS = 0x060, 0x064, 0x070
QUEUE_DESC_LOW, QUEUE_DESC_HIGH = 0x080, 0x084
QUEUE_DRIVER_LOW, QUEUE_DRIVER_HIGH = 0x090, 0x094
QUEUE_DEVICE_LOW, QUEUE_DEVICE_HIGH = 0x0A0, 0x0A4
SHM_LEN_LOW, SHM_BASE_HIGH = 0x0B0, 0x0BC
CONFIG_GENERATION, CONFIG = 0x0FC, 0x100

ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK = 1, 2, 4, 8
DEVICE_NEEDS_RESET, FAILED = 64, 128

INTERRUPT_USED, INTERRUPT_CONFIG = 1, 2


class QueueState(State):
    """A queue as the driver has set it up, and how far its rings have come."""

    size: int = opt(U32)
    ready: bool = opt(FLAG)
    desc: int = opt(U64)
    driver: int = opt(U64)
    device: int = opt(U64)
    next_avail: int = opt(U16, default=0)
    next_used: int = opt(U16, default=0)


class MmioState(State):
    """Registers, queues and the device of one slot."""

    base: int = opt(U64, help="where the slot is")
    device_id: int = opt(U32)
    status: int = opt(U8)
    device_features_sel: int = opt(U32)
    driver_features_sel: int = opt(U32)
    driver_features: int = opt(U64)
    queue_sel: int = opt(U32)
    config_generation: int = opt(U32)
    interrupt_status: int = opt(U32)
    is_active: bool = opt(FLAG)
    queues: list[QueueState] = opt(Each(Struct(QueueState)))
    device: dict[str, object] = opt(Unread())


class _QueueSetup:
    """What the driver has written about one queue so far."""

    __slots__ = ("desc", "device", "driver", "kick_fd", "ready", "size", "size_max")

    def __init__(self, size_max: int) -> None:
        self.size_max = size_max
        self.kick_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.reset()

    def reset(self) -> None:
        self.size = self.size_max
        self.ready = False
        self.desc = self.driver = self.device = 0


class MmioTransport:
    """One virtio-mmio slot with its device.

    Doorbells are eventfds from the start and the interrupt status is answered natively, so an
    I/O request costs the guest no Python.
    """

    def __init__(
        self,
        device: VirtioDevice,
        memory: GuestMemory,
        accelerator: Accelerator,
        space: AddressSpace,
        base: int,
        gsi: int,
    ) -> None:
        self.device = device
        self.base = base
        self.gsi = gsi
        self._memory = memory
        self._accelerator = accelerator
        self._interrupts = InterruptStatus()
        irqfd = accelerator.irqfd(gsi)
        self._used_notifier = Notifier(self._interrupts, INTERRUPT_USED, irqfd)
        self._config_notifier = Notifier(self._interrupts, INTERRUPT_CONFIG, irqfd)
        self._queues = [_QueueSetup(size) for size in device.queue_sizes]
        self._rings: dict[int, Virtqueue] = {}
        self._active = False
        device.broken = self._broken
        device.config_changed = self._config_changed
        if device.uses_kernel_interrupts:
            self._interrupts.hold(INTERRUPT_USED)
        self._reset_registers()
        space.add(base, IoRegion(f"virtio-mmio@0x{base:x}", SLOT_BYTES, self))
        space.add(
            base + INTERRUPT_STATUS,
            NativeRegion(f"virtio-mmio-irq@0x{base:x}", 8, self._interrupts.native_ops()),
            priority=1,
        )
        for index, queue in enumerate(self._queues):
            accelerator.add_doorbell(queue.kick_fd, base + QUEUE_NOTIFY, 4, index)

    def _reset_registers(self) -> None:
        self._status = 0
        self._device_features_sel = self._driver_features_sel = self._queue_sel = 0
        self._driver_features = 0
        self._config_generation = 0
        for queue in self._queues:
            queue.reset()

    @property
    def _features(self) -> int:
        return self.device.features | self.device.transport_features

    def read(self, offset: int, size: int) -> int:
        """A register; configuration space takes any size, the rest only 32 bits."""
        if offset >= CONFIG:
            return int.from_bytes(self.device.read_config(offset - CONFIG, size), "little")
        if size != 4 or offset % 4:
            return 0
        if SHM_LEN_LOW <= offset <= SHM_BASE_HIGH:
            return 0xFFFF_FFFF  # no shared memory region (section 4.2.2)
        queue = self._selected()
        registers = {
            MAGIC_VALUE: MAGIC,
            VERSION_REG: VERSION,
            DEVICE_ID: self.device.device_id,
            VENDOR_ID: VENDOR,
            DEVICE_FEATURES: self._feature_word(),
            QUEUE_SIZE_MAX: queue.size_max if queue else 0,
            QUEUE_READY: int(queue.ready) if queue else 0,
            STATUS: self._status,
            CONFIG_GENERATION: self._config_generation,
        }
        return registers.get(offset, 0)

    def write(self, offset: int, size: int, value: int) -> None:
        """Store to a register; what the driver may not do now is logged and ignored."""
        if offset >= CONFIG:
            self.device.write_config(offset - CONFIG, value.to_bytes(size, "little"))
            return
        if size != 4 or offset % 4:
            return
        if offset == STATUS:
            self._write_status(value)
        elif offset == DEVICE_FEATURES_SEL:
            self._device_features_sel = value
        elif offset == DRIVER_FEATURES_SEL:
            self._driver_features_sel = value
        elif offset == DRIVER_FEATURES:
            self._write_features(value)
        elif offset == QUEUE_SEL:
            self._queue_sel = value
        elif offset == QUEUE_NOTIFY:
            self._kick(value)
        else:
            self._write_queue(offset, value)

    def _selected(self) -> _QueueSetup | None:
        return self._queues[self._queue_sel] if self._queue_sel < len(self._queues) else None

    def _feature_word(self) -> int:
        if self._device_features_sel > 1:
            return 0
        return self._features >> 32 * self._device_features_sel & 0xFFFF_FFFF

    def _write_features(self, value: int) -> None:
        if self._driver_features_sel > 1 or self._status & FEATURES_OK:
            return
        shift = 32 * self._driver_features_sel
        self._driver_features &= ~(0xFFFF_FFFF << shift)
        self._driver_features |= value << shift

    def _kick(self, index: int) -> None:
        # Only a doorbell that the accelerator could not take over comes this way.
        if index < len(self._queues):
            os.eventfd_write(self._queues[index].kick_fd, 1)

    def _write_queue(self, offset: int, value: int) -> None:
        queue = self._selected()
        if queue is None or self._status & DRIVER_OK:
            return
        if offset == QUEUE_READY:
            queue.ready = bool(value & 1)
        elif queue.ready:
            return
        elif offset == QUEUE_SIZE:
            queue.size = value
        elif offset == QUEUE_DESC_LOW:
            queue.desc = _low(queue.desc, value)
        elif offset == QUEUE_DESC_HIGH:
            queue.desc = _high(queue.desc, value)
        elif offset == QUEUE_DRIVER_LOW:
            queue.driver = _low(queue.driver, value)
        elif offset == QUEUE_DRIVER_HIGH:
            queue.driver = _high(queue.driver, value)
        elif offset == QUEUE_DEVICE_LOW:
            queue.device = _low(queue.device, value)
        elif offset == QUEUE_DEVICE_HIGH:
            queue.device = _high(queue.device, value)

    def _write_status(self, value: int) -> None:
        VIRTIO_STATUS(self.device.name, value)
        if value == 0:
            self.reset()
            return
        value &= 0xFF
        if self._status & ~value & ~DEVICE_NEEDS_RESET:
            log.warn(f"{self.device.name}: the driver cleared status bits without a reset")
            return
        fresh = value & ~self._status
        if fresh & FEATURES_OK:
            unknown = self._driver_features & ~self._features
            if unknown or not self._driver_features & VERSION_1:
                log.warn(
                    f"{self.device.name}: the driver's features are refused: "
                    f"0x{self._driver_features:x}"
                )
                value &= ~FEATURES_OK
        needs_reset = self._status & DEVICE_NEEDS_RESET
        self._status = value & ~DEVICE_NEEDS_RESET | needs_reset
        if fresh & DRIVER_OK and not needs_reset:
            if self._status & FEATURES_OK:
                self._activate()
            else:
                self._broken("DRIVER_OK without FEATURES_OK")

    def _activate(self, positions: Mapping[int, tuple[int, int]] | None = None) -> None:
        event_idx = bool(self._driver_features & RING_EVENT_IDX)
        queues: list[ActiveQueue] = []
        for index, queue in enumerate(self._queues):
            if not queue.ready:
                continue
            try:
                if queue.size > queue.size_max:
                    raise VirtqueueError(f"queue size {queue.size} is over {queue.size_max}")
                ring = Virtqueue(
                    self._memory, queue.size, queue.desc, queue.driver, queue.device, event_idx
                )
            except VirtqueueError as error:
                self._broken(f"queue {index}: {error}")
                return
            if positions is not None:
                ring.position = positions[index]
            queues.append(ActiveQueue(index, ring, queue.kick_fd, self._used_notifier))
        self._active = True
        self._rings = {queue.index: queue.ring for queue in queues}
        VIRTIO_FEATURES(self.device.name, self._driver_features)
        self.device.activate(queues, self._driver_features)

    def _config_changed(self) -> None:
        self._config_generation = self._config_generation + 1 & 0xFFFF_FFFF
        if self._status & DRIVER_OK:
            self._config_notifier.raise_interrupt()

    def _broken(self, reason: str) -> None:
        VIRTIO_BROKEN(self.device.name)
        log.warn(f"{self.device.name}: the device needs a reset: {reason}")
        self._status |= DEVICE_NEEDS_RESET
        if self._status & DRIVER_OK:
            self._config_notifier.raise_interrupt()

    def reset(self) -> None:
        """The device as after power-on; returns when no request is in flight."""
        if self._active:
            self._active = False
            self.device.deactivate()
            self._rings = {}
        self._reset_registers()
        self._interrupts.clear()

    def save(self) -> MmioState:
        """The slot of a machine at rest."""
        return MmioState(
            base=self.base,
            device_id=self.device.device_id,
            status=self._status,
            device_features_sel=self._device_features_sel,
            driver_features_sel=self._driver_features_sel,
            driver_features=self._driver_features,
            queue_sel=self._queue_sel,
            config_generation=self._config_generation,
            interrupt_status=self._interrupts.get(),
            is_active=self._active,
            queues=[self._save_queue(index) for index in range(len(self._queues))],
            device=self.device.save().to_json(),
        )

    def _save_queue(self, index: int) -> QueueState:
        queue, ring = self._queues[index], self._rings.get(index)
        next_avail, next_used = ring.position if ring is not None else (0, 0)
        return QueueState(
            size=queue.size, ready=queue.ready,
            desc=queue.desc, driver=queue.driver, device=queue.device,
            next_avail=next_avail, next_used=next_used,
        )  # fmt: skip

    def restore(self, state: MmioState) -> None:
        """Become as the slot that was saved, at rest; raises SnapshotError."""
        device = self.device
        if device.obstacle is not None:
            raise SnapshotError(f"{device.name}: {device.obstacle}, nor restored")
        if len(state.queues) != len(self._queues):
            raise SnapshotError(
                f"{device.name}: the device has {len(self._queues)} queues and the snapshot's "
                f"had {len(state.queues)} (num-queues, mq)"
            )
        lacking = state.driver_features & ~self._features
        if state.status & FEATURES_OK and lacking:
            raise SnapshotError(
                f"{device.name}: the guest uses features (0x{lacking:x}) that the device lacks here"
            )
        device.quiesce()
        self._status, self._queue_sel = state.status, state.queue_sel
        self._device_features_sel = state.device_features_sel
        self._driver_features_sel = state.driver_features_sel
        self._driver_features = state.driver_features
        self._config_generation = state.config_generation
        for queue, saved in zip(self._queues, state.queues, strict=True):
            queue.size, queue.ready = saved.size, saved.ready
            queue.desc, queue.driver, queue.device = saved.desc, saved.driver, saved.device
        if state.is_active:
            self._activate(
                {i: (queue.next_avail, queue.next_used) for i, queue in enumerate(state.queues)}
            )
            if not self._active:
                raise SnapshotError(f"{device.name}: the snapshot's rings are damaged")
        device.restore(device.state_type.from_json(state.device, device.name))
        if state.interrupt_status:
            # The interrupt itself may have been on its way when the machine was saved.
            self._interrupts.set(state.interrupt_status)
            os.eventfd_write(self._used_notifier.fd, 1)


def _low(address: int, value: int) -> int:
    return address & ~0xFFFF_FFFF | value


def _high(address: int, value: int) -> int:
    return address & 0xFFFF_FFFF | value << 32
