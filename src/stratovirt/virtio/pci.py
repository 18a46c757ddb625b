"""The virtio-pci transport, modern only (virtio 1.2, section 4.1)."""

from __future__ import annotations

import os

from stratovirt._native.interrupt import InterruptStatus, Notifier
from stratovirt.config.kinds import Integer
from stratovirt.config.options import opt
from stratovirt.memory.address_space import IoRegion
from stratovirt.pci import config_space as regs
from stratovirt.pci.function import BAR_64, BAR_PREFETCHABLE
from stratovirt.pci.msix import NO_VECTOR, add_msix
from stratovirt.runtime.eventfds import forget_signal, has_signal, new_eventfds, take_signal
from stratovirt.runtime.log import Log
from stratovirt.runtime.loop import READABLE
from stratovirt.snapshot.errors import SnapshotError
from stratovirt.snapshot.state import U16, Each
from stratovirt.virtio.pci_function import (
    AREA_BYTES,
    BAR_BYTES,
    NOTIFY,
    NOTIFY_MULTIPLIER,
    REGISTERS_BAR,
    VirtioFunction,
)
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
    from collections.abc import Mapping

    from stratovirt.accel.base import Accelerator
    from stratovirt.devices.device_host import DeviceHost
    from stratovirt.virtio.device import VirtioDevice

log = Log(__name__)

MSIX_BAR = 1

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
WORD = 0xFFFF
"""Largest value of a register of two bytes."""


class VirtioPciState(TransportState):
    """Registers and queues of a device on PCI; a source is a queue, or the configuration, last."""

    vectors: list[int] = opt(Each(U16), help="the MSI-X vector of each source")
    isr: int = opt(Integer(0, INTERRUPT_USED | INTERRUPT_CONFIG))
    signalled: list[int] = opt(Each(U16), help="sources that wait to interrupt the guest")


class PciTransport(VirtioTransport):
    """One virtio device on PCI: a vector and an eventfd for each queue, doorbells by ioeventfd."""

    state_type = VirtioPciState

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

    def activate(self, positions: Mapping[int, tuple[int, int]] | None = None) -> None:
        """Activate the device with the ready queues, rings at `positions` or at their start."""
        super().activate(positions)
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

    def save(self) -> VirtioPciState:
        """The device's registers while the machine is paused; raises SnapshotError."""
        return VirtioPciState(
            vectors=list(self._vectors),
            isr=self._isr,
            signalled=[i for i, notifier in enumerate(self._notifiers) if has_signal(notifier.fd)],
            **saved_registers(self),
        )

    def restore(self, state: VirtioPciState) -> None:
        """Restore the registers, whose function is restored before; raises SnapshotError."""
        check_registers(self, state)
        sources = len(self._notifiers)
        registers = [state.queue_sel, *(queue.size for queue in state.queues)]
        if (
            len(state.vectors) != sources
            or any(source >= sources for source in state.signalled)
            or any(register > WORD for register in registers)
        ):
            raise SnapshotError(f"{self.device.name}: the snapshot's registers are damaged")
        self._vectors = [
            vector if vector < len(self._msix.vectors) else NO_VECTOR for vector in state.vectors
        ]
        self._isr = state.isr
        restore_registers(self, state)
        self._route_all()
        for source in {*state.signalled, *self._may_have_spoken()}:
            os.eventfd_write(self._notifiers[source].fd, 1)

    def _may_have_spoken(self) -> list[int]:
        """Sources whose message may have been on its way when the machine was saved."""
        if not (self.is_active and self._msix.is_enabled):
            return []
        return [
            source
            for source, vector in enumerate(self._vectors)
            if vector != NO_VECTOR and self._msix.vectors[vector].gsi is not None
        ]

    def close(self) -> None:
        """Reset the device and close the eventfds; it was detached from its bus."""
        super().close()
        for notifier in self._notifiers:
            os.close(notifier.fd)
