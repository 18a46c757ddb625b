"""The virtio-pci transport, modern only (virtio 1.2, section 4.1)."""

from __future__ import annotations

import os
import struct

from stratovirt._native.interrupt import InterruptStatus, Notifier
from stratovirt.config.buses import DeviceId
from stratovirt.memory.address_space import IoRegion
from stratovirt.pci import config_space as regs
from stratovirt.pci import express
from stratovirt.pci.function import BAR_64, BAR_PREFETCHABLE, PciFunction
from stratovirt.pci.msix import NO_VECTOR, add_msix
from stratovirt.runtime.eventfds import forget_signal, new_eventfds, take_signal
from stratovirt.runtime.log import Log
from stratovirt.runtime.loop import READABLE
from stratovirt.virtio.transport import (
    INTERRUPT_CONFIG,
    INTERRUPT_USED,
    VirtioTransport,
    high_half,
    low_half,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stratovirt.accel.base import Accelerator
    from stratovirt.devices.device_host import DeviceHost
    from stratovirt.virtio.device import VirtioDevice

log = Log(__name__)

FIRST_DEVICE, REVISION = 0x1040, 1
CLASS_OTHER = 0x00FF00
CLASSES = {
    DeviceId.NET: 0x020000,
    DeviceId.BLOCK: 0x010000,
    DeviceId.CONSOLE: 0x078000,
    DeviceId.SOCKET: 0x028000,
}
"""Class codes: Ethernet, storage, communication, network."""

MSIX_BAR, REGISTERS_BAR = 1, 4
COMMON, ISR, DEVICE, NOTIFY = 0x0000, 0x1000, 0x2000, 0x3000
AREA_BYTES, BAR_BYTES = 0x1000, 0x4000
NOTIFY_MULTIPLIER = 4

CAP_COMMON, CAP_NOTIFY, CAP_ISR, CAP_DEVICE, CAP_PCI = 1, 2, 3, 4, 5
CAP_BYTES = 16

DEVICE_FEATURE_SELECT, DEVICE_FEATURE = 0x00, 0x04
DRIVER_FEATURE_SELECT, DRIVER_FEATURE = 0x08, 0x0C
CONFIG_MSIX_VECTOR, NUM_QUEUES, DEVICE_STATUS, CONFIG_GENERATION = 0x10, 0x12, 0x14, 0x15
QUEUE_SELECT, QUEUE_SIZE, QUEUE_MSIX_VECTOR, QUEUE_ENABLE, QUEUE_NOTIFY_OFF = range(0x16, 0x20, 2)
QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE = 0x20, 0x28, 0x30
QUEUE_ADDRESSES = {QUEUE_DESC: "desc", QUEUE_DRIVER: "driver", QUEUE_DEVICE: "device"}
WIDTHS = {
    DEVICE_FEATURE_SELECT: 4, DEVICE_FEATURE: 4, DRIVER_FEATURE_SELECT: 4, DRIVER_FEATURE: 4,
    CONFIG_MSIX_VECTOR: 2, NUM_QUEUES: 2, DEVICE_STATUS: 1, CONFIG_GENERATION: 1, QUEUE_SELECT: 2,
    QUEUE_SIZE: 2, QUEUE_MSIX_VECTOR: 2, QUEUE_ENABLE: 2, QUEUE_NOTIFY_OFF: 2,
}  # fmt: skip
"""The access width of each register; queue addresses take 4 or 8 bytes."""


class VirtioFunction(PciFunction):
    """The PCI function of a virtio device, with a window to its registers (4.1.4.9)."""

    def __init__(self, device: VirtioDevice, *, is_integrated: bool) -> None:
        super().__init__(
            device.name,
            vendor=regs.VIRTIO_VENDOR,
            device=FIRST_DEVICE + device.device_id,
            class_code=CLASSES.get(device.device_id, CLASS_OTHER),
            revision=REVISION,
            subsystem=regs.BOARD_SUBSYSTEM,
        )
        self.config.set(regs.INTERRUPT_PIN, 1, 1)
        express.add_express(
            self, express.INTEGRATED_ENDPOINT if is_integrated else express.ENDPOINT
        )
        self._registers: IoRegion | None = None
        self._window = 0
        self.reset_device: Callable[[], None] = lambda: None

    def add_registers(self, registers: IoRegion) -> None:
        """Add the capabilities (4.1.4) that locate each structure within `registers`."""
        self._registers = registers
        for kind, offset in ((CAP_COMMON, COMMON), (CAP_ISR, ISR), (CAP_DEVICE, DEVICE)):
            self._add_capability(kind, offset)
        self._add_capability(CAP_NOTIFY, NOTIFY, struct.pack("<I", NOTIFY_MULTIPLIER))
        self._window = self._add_capability(CAP_PCI, 0, bytes(4), bar=0, length=0)
        for field, size in ((4, 1), (8, 4), (12, 4)):
            self.config.allow(self._window + field, size, (1 << 8 * size) - 1)

    def _add_capability(
        self,
        kind: int,
        offset: int,
        extra: bytes = b"",
        bar: int = REGISTERS_BAR,
        length: int = AREA_BYTES,
    ) -> int:
        head = struct.pack("<BBB3xII", CAP_BYTES + len(extra), kind, bar, offset, length)
        return self.config.add_capability(regs.CAP_VENDOR, head + extra)

    def reset(self) -> None:
        """Reset to power-on state; the device is stopped before configuration space is reset."""
        self.reset_device()
        super().reset()

    def read_config(self, offset: int, size: int) -> int:
        """Read configuration space; the window's data field reads the register it selects."""
        if offset == self._window + CAP_BYTES:
            at = self._window_target(size)
            if at is not None:
                assert self._registers is not None
                return self._registers.handler.read(at, size)
        return super().read_config(offset, size)

    def write_config(self, offset: int, size: int, value: int) -> None:
        """Write configuration space; the window's data field writes the register it selects."""
        if offset == self._window + CAP_BYTES:
            at = self._window_target(size)
            if at is not None:
                assert self._registers is not None
                self._registers.handler.write(at, size, value)
            return
        super().write_config(offset, size, value)

    def _window_target(self, size: int) -> int | None:
        config, window = self.config, self._window
        offset, length = config.get(window + 8, 4), config.get(window + 12, 4)
        if config.get(window + 4, 1) != REGISTERS_BAR or length != size:
            return None
        return offset if offset % size == 0 and offset + size <= BAR_BYTES else None


class PciTransport(VirtioTransport):
    """One virtio device on PCI: a vector and an eventfd for each queue, doorbells by ioeventfd."""

    def __init__(
        self,
        device: VirtioDevice,
        host: DeviceHost,
        accelerator: Accelerator,
        *,
        is_integrated: bool,
        vectors: int | None = None,
    ) -> None:
        self._accelerator = accelerator
        self._loop = host.loop
        # The status register of MMIO does not exist here: the loop keeps ISR, for pins only.
        unused = InterruptStatus()
        count = len(device.queue_sizes)
        self._notifiers = [Notifier(unused, 0, fd) for fd in new_eventfds(count + 1)]
        self._vectors = [NO_VECTOR] * (count + 1)
        self._isr = 0
        self._doorbells: list[tuple[int, int]] = []
        self._watched: set[int] = set()
        try:
            super().__init__(device, host.memory)
        except OSError:
            for notifier in self._notifiers:
                os.close(notifier.fd)
            raise
        self.function = VirtioFunction(device, is_integrated=is_integrated)
        registers = IoRegion(f"{device.name}-registers", BAR_BYTES, self)
        self._msix = add_msix(
            self.function, accelerator, count + 1 if vectors is None else vectors, MSIX_BAR
        )
        self._msix.switched = self._route_all
        self.function.add_bar(
            REGISTERS_BAR,
            BAR_BYTES,
            [(0, registers)],
            flags=BAR_64 | BAR_PREFETCHABLE,
            moved=self._moved,
        )
        self.function.add_registers(registers)
        self.function.config.keep()
        self.function.failed = self.failed
        self.function.reset_device = self.reset
        self._areas = (
            (self._read_common, self._write_common),
            (self._read_isr, lambda _offset, _size, _value: None),
            (self._read_device, self._write_device),
            (lambda _offset, _size: 0, self._write_notify),
        )

    @property
    def _config_source(self) -> int:
        return len(self.queues)

    def notifier(self, queue: int) -> Notifier:
        """The queue's own notifier."""
        return self._notifiers[queue]

    def notify_config(self) -> None:
        """Raise the interrupt for configuration changes, through its vector or the pin."""
        self._notifiers[self._config_source].raise_interrupt()

    def read(self, offset: int, size: int) -> int:
        """Read a register of the virtio BAR."""
        return self._areas[offset // AREA_BYTES][0](offset % AREA_BYTES, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register of the virtio BAR."""
        self._areas[offset // AREA_BYTES][1](offset % AREA_BYTES, size, value)

    def _read_common(self, offset: int, size: int) -> int:
        queue = self.selected
        if QUEUE_DESC <= offset < QUEUE_DEVICE + 8:
            return self._read_address(offset, size)
        if WIDTHS.get(offset) != size:
            return 0
        registers = {
            DEVICE_FEATURE_SELECT: self.device_features_sel,
            DEVICE_FEATURE: self.feature_word,
            DRIVER_FEATURE_SELECT: self.driver_features_sel,
            DRIVER_FEATURE: self._driver_feature_word(),
            CONFIG_MSIX_VECTOR: self._vectors[self._config_source],
            NUM_QUEUES: len(self.queues),
            DEVICE_STATUS: self.status,
            CONFIG_GENERATION: self.config_generation & 0xFF,
            QUEUE_SELECT: self.queue_sel,
            QUEUE_SIZE: queue.size if queue else 0,
            QUEUE_MSIX_VECTOR: self._vectors[self.queue_sel] if queue else NO_VECTOR,
            QUEUE_ENABLE: int(queue.ready) if queue else 0,
            QUEUE_NOTIFY_OFF: self.queue_sel if queue else 0,
        }
        return registers[offset]

    def _driver_feature_word(self) -> int:
        if self.driver_features_sel > 1:
            return 0
        return self.driver_features >> 32 * self.driver_features_sel & 0xFFFF_FFFF

    def _read_address(self, offset: int, size: int) -> int:
        queue = self.selected
        if queue is None or size not in (4, 8) or offset % size:
            return 0
        address: int = getattr(queue, QUEUE_ADDRESSES[offset & ~7])
        return address >> 8 * (offset & 7) & (1 << 8 * size) - 1

    def _write_common(self, offset: int, size: int, value: int) -> None:
        if QUEUE_DESC <= offset < QUEUE_DEVICE + 8:
            self._write_address(offset, size, value)
        elif WIDTHS.get(offset) != size:
            return
        elif offset == DEVICE_FEATURE_SELECT:
            self.device_features_sel = value
        elif offset == DRIVER_FEATURE_SELECT:
            self.driver_features_sel = value
        elif offset == DRIVER_FEATURE:
            self.write_features(value)
        elif offset == CONFIG_MSIX_VECTOR:
            self._choose_vector(self._config_source, value)
        elif offset == DEVICE_STATUS:
            self.write_status(value)
        elif offset == QUEUE_SELECT:
            self.queue_sel = value
        elif offset == QUEUE_MSIX_VECTOR:
            if self.selected is not None:
                self._choose_vector(self.queue_sel, value)
        else:
            self._write_queue(offset, value)

    def _write_queue(self, offset: int, value: int) -> None:
        queue = self.writable_queue
        if queue is None or queue.ready:
            return
        if offset == QUEUE_SIZE:
            queue.size = value
        elif offset == QUEUE_ENABLE:
            queue.ready = value == 1

    def _write_address(self, offset: int, size: int, value: int) -> None:
        queue = self.writable_queue
        if queue is None or queue.ready or size not in (4, 8) or offset % size:
            return
        name = QUEUE_ADDRESSES[offset & ~7]
        if size == 4:
            combine = high_half if offset & 4 else low_half
            value = combine(getattr(queue, name), value)
        setattr(queue, name, value)

    def _read_isr(self, offset: int, _size: int) -> int:
        if offset:
            return 0
        bits, self._isr = self._isr, 0
        self._drive_pin()
        return bits

    def _read_device(self, offset: int, size: int) -> int:
        return int.from_bytes(self.device.read_config(offset, size), "little")

    def _write_device(self, offset: int, size: int, value: int) -> None:
        self.device.write_config(offset, value.to_bytes(size, "little"))

    def _write_notify(self, offset: int, _size: int, _value: int) -> None:
        self.kick(offset // NOTIFY_MULTIPLIER)

    def _choose_vector(self, source: int, vector: int) -> None:
        self._vectors[source] = vector if vector < len(self._msix.vectors) else NO_VECTOR
        self._route(source)

    def _route_all(self) -> None:
        for source in range(len(self._notifiers)):
            self._route(source)
        self._drive_pin()

    def _route(self, source: int) -> None:
        """Attach a source's eventfd to its MSI-X vector, or have the loop raise the pin for it."""
        fd = self._notifiers[source].fd
        if self._msix.is_enabled:
            self._unwatch(fd)
            self._msix.attach(fd, self._vectors[source])
            return
        self._msix.detach(fd)
        if self.is_active and fd not in self._watched:
            bit = INTERRUPT_CONFIG if source == self._config_source else INTERRUPT_USED
            self._watched.add(fd)
            self._loop.watch(fd, READABLE, lambda _events: self._raise_pin(fd, bit), self.failed)

    def _unwatch(self, fd: int) -> None:
        if fd in self._watched:
            self._watched.discard(fd)
            self._loop.unwatch(fd)

    def _raise_pin(self, fd: int, bit: int) -> None:
        if not take_signal(fd):
            return
        self._isr |= bit
        self._drive_pin()

    def _drive_pin(self) -> None:
        function = self.function
        config = function.config
        level = bool(self._isr) and not self._msix.is_enabled
        config.change(regs.STATUS, 2, regs.STATUS_INTX, regs.STATUS_INTX if level else 0)
        if function.bus is not None:
            disabled = config.get(regs.COMMAND, 2) & regs.COMMAND_INTX_DISABLE
            function.bus.host.set_intx(function, 1, level and not disabled)

    def activate(self, positions: object = None) -> None:
        """Hand the queues to the device."""
        assert positions is None
        super().activate()
        self._route_all()

    def _moved(self, base: int | None) -> None:
        """The BAR has moved: register the doorbells at their new addresses."""
        for index, address in self._doorbells:
            fd = self.queues[index].kick_fd
            self._accelerator.remove_doorbell(fd, address, 2, None)
        self._doorbells.clear()
        if base is None:
            return
        for index, queue in enumerate(self.queues):
            address = base + NOTIFY + index * NOTIFY_MULTIPLIER
            try:
                self._accelerator.add_doorbell(queue.kick_fd, address, 2, None)
            except OSError as error:
                # Two BARs overlap: notifications there take the slow path through `kick`.
                log.warn(f"{self.device.name}: a doorbell at 0x{address:x}: {error.strerror}")
                return
            self._doorbells.append((index, address))

    def reset(self) -> None:
        """The device as after power-on; returns when no request is in flight."""
        super().reset()
        self._vectors = [NO_VECTOR] * len(self._notifiers)
        self._isr = 0
        for notifier in self._notifiers:
            self._unwatch(notifier.fd)
            self._msix.detach(notifier.fd)
            forget_signal(notifier.fd)
        self._drive_pin()

    def close(self) -> None:
        """Reset the device and close the eventfds; it was detached from its bus."""
        super().close()
        for notifier in self._notifiers:
            os.close(notifier.fd)
