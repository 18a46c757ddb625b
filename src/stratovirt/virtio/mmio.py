"""The virtio-mmio transport, version 2 (virtio 1.2, section 4.2)."""

from __future__ import annotations

import os

from stratovirt._native.guest_memory import GuestMemory
from stratovirt._native.interrupt import InterruptStatus, Notifier
from stratovirt.config.options import opt
from stratovirt.memory.address_space import AddressSpace, IoRegion, NativeRegion
from stratovirt.snapshot.errors import SnapshotError
from stratovirt.snapshot.state import U32, U64
from stratovirt.virtio.transport import (
    INTERRUPT_CONFIG,
    INTERRUPT_USED,
    VirtioTransport,
    high_half,
    low_half,
)
from stratovirt.virtio.transport_state import (
    TransportState,
    check_registers,
    restore_registers,
    saved_registers,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.accel.base import Accelerator
    from stratovirt.virtio.device import VirtioDevice

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


class MmioState(TransportState):
    """Place, registers and queues of one slot."""

    base: int = opt(U64, help="where the slot is")
    gsi: int = opt(U32)
    interrupt_status: int = opt(U32)


class MmioTransport(VirtioTransport):
    """One virtio-mmio slot with its device.

    Doorbells are eventfds from the start and the interrupt status is answered natively, so an
    I/O request runs no Python code.
    """

    state_type = MmioState

    def __init__(
        self,
        device: VirtioDevice,
        memory: GuestMemory,
        accelerator: Accelerator,
        space: AddressSpace,
        base: int,
        gsi: int,
    ) -> None:
        self.base = base
        self.gsi = gsi
        self._interrupts = InterruptStatus()
        self._irqfd = accelerator.irqfd(gsi)
        self._used_notifier = Notifier(self._interrupts, INTERRUPT_USED, self._irqfd)
        self._config_notifier = Notifier(self._interrupts, INTERRUPT_CONFIG, self._irqfd)
        try:
            super().__init__(device, memory)
        except OSError:
            os.close(self._irqfd)
            raise
        if device.uses_kernel_interrupts:
            self._interrupts.hold(INTERRUPT_USED)
        space.add(base, IoRegion(f"virtio-mmio@0x{base:x}", SLOT_BYTES, self))
        space.add(
            base + INTERRUPT_STATUS,
            NativeRegion(f"virtio-mmio-irq@0x{base:x}", 8, self._interrupts.native_ops()),
            priority=1,
        )
        for index, queue in enumerate(self.queues):
            accelerator.add_doorbell(queue.kick_fd, base + QUEUE_NOTIFY, 4, index)

    def close(self) -> None:
        """Reset the device and close the eventfds; the accelerator is closed after it."""
        super().close()
        os.close(self._irqfd)

    def notifier(self, _queue: int) -> Notifier:
        """The slot's used-buffer notifier, shared by all queues."""
        return self._used_notifier

    def notify_config(self) -> None:
        """Raise the line with the bit for a changed configuration."""
        self._config_notifier.raise_interrupt()

    def read(self, offset: int, size: int) -> int:
        """A register; configuration space takes any size, the rest only 32 bits."""
        if offset >= CONFIG:
            return int.from_bytes(self.device.read_config(offset - CONFIG, size), "little")
        if size != 4 or offset % 4:
            return 0
        if SHM_LEN_LOW <= offset <= SHM_BASE_HIGH:
            return 0xFFFF_FFFF  # no shared memory region (section 4.2.2)
        queue = self.selected
        registers = {
            MAGIC_VALUE: MAGIC,
            VERSION_REG: VERSION,
            DEVICE_ID: self.device.device_id,
            VENDOR_ID: VENDOR,
            DEVICE_FEATURES: self.feature_word,
            QUEUE_SIZE_MAX: queue.size_max if queue else 0,
            QUEUE_READY: int(queue.ready) if queue else 0,
            STATUS: self.status,
            CONFIG_GENERATION: self.config_generation,
        }
        return registers.get(offset, 0)

    def write(self, offset: int, size: int, value: int) -> None:
        """Store to a register; a write that is invalid in the current state is ignored."""
        if offset >= CONFIG:
            self.device.write_config(offset - CONFIG, value.to_bytes(size, "little"))
            return
        if size != 4 or offset % 4:
            return
        if offset == STATUS:
            self.write_status(value)
        elif offset == DEVICE_FEATURES_SEL:
            self.device_features_sel = value
        elif offset == DRIVER_FEATURES_SEL:
            self.driver_features_sel = value
        elif offset == DRIVER_FEATURES:
            self.write_features(value)
        elif offset == QUEUE_SEL:
            self.queue_sel = value
        elif offset == QUEUE_NOTIFY:
            self.kick(value)
        else:
            self._write_queue(offset, value)

    def _write_queue(self, offset: int, value: int) -> None:
        queue = self.writable_queue
        if queue is None:
            return
        if offset == QUEUE_READY:
            queue.ready = bool(value & 1)
        elif queue.ready:
            return
        elif offset == QUEUE_SIZE:
            queue.size = value
        elif offset == QUEUE_DESC_LOW:
            queue.desc = low_half(queue.desc, value)
        elif offset == QUEUE_DESC_HIGH:
            queue.desc = high_half(queue.desc, value)
        elif offset == QUEUE_DRIVER_LOW:
            queue.driver = low_half(queue.driver, value)
        elif offset == QUEUE_DRIVER_HIGH:
            queue.driver = high_half(queue.driver, value)
        elif offset == QUEUE_DEVICE_LOW:
            queue.device = low_half(queue.device, value)
        elif offset == QUEUE_DEVICE_HIGH:
            queue.device = high_half(queue.device, value)

    def reset(self) -> None:
        """The device as after power-on; returns when no request is in flight."""
        super().reset()
        self._interrupts.clear()

    def save(self) -> MmioState:
        """The slot's state while the machine is paused; raises SnapshotError."""
        return MmioState(
            base=self.base,
            gsi=self.gsi,
            interrupt_status=self._interrupts.get(),
            **saved_registers(self),
        )

    def restore(self, state: MmioState) -> None:
        """Restore the saved slot, its device quiesced; raises SnapshotError."""
        if (state.base, state.gsi) != (self.base, self.gsi):
            raise SnapshotError(
                f"{self.device.name}: it is at 0x{self.base:x}, interrupt {self.gsi}, and the "
                f"snapshot's was at 0x{state.base:x}, interrupt {state.gsi}; give the devices in "
                "the same order"
            )
        check_registers(self, state)
        restore_registers(self, state)
        if state.interrupt_status:
            # The interrupt itself may have been on its way when the machine was saved.
            self._interrupts.set(state.interrupt_status)
            os.eventfd_write(self._used_notifier.fd, 1)
