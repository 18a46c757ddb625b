"""A host PCI function in the guest: configuration space virtualised, BARs mapped, DMA direct."""

from __future__ import annotations

import os

from stratovirt._native import vfio
from stratovirt._native.vfio import Device, DeviceMemory
from stratovirt.memory.address_space import DeviceRegion, IoRegion, Region
from stratovirt.pci import config_space as regs
from stratovirt.pci.function import BAR_64, BAR_IO, ROM_INDEX, PciFunction
from stratovirt.pci.msix import ENTRY, Msix
from stratovirt.runtime.eventfds import new_eventfd, take_signal
from stratovirt.runtime.log import Log
from stratovirt.runtime.loop import READABLE
from stratovirt.vfio.interrupts import (
    MSI_64_BIT,
    MSI_CONTROL,
    MsiEvents,
    MsixEvents,
    PinEvents,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stratovirt.accel.base import Accelerator
    from stratovirt.runtime.loop import Loop
    from stratovirt.vfio.container import VfioContainer

log = Log(__name__)

PAGE = 4096
BAR_COUNT = 6
BAR_FLAGS = 0xF
CAPABILITY_LIMIT = 48
EXTENDED = 0x100
HIDDEN_EXTENDED = (0x0E, 0x10, 0x15)
"""ARI, SR-IOV and resizable BARs: the host would have to follow the guest's changes."""


class DeviceRegisters:
    """Part of a region that is read and written through the device's descriptor."""

    def __init__(self, fd: int, offset: int, name: str) -> None:
        self._fd, self._offset, self._name = fd, offset, name

    def read(self, offset: int, size: int) -> int:
        """Read from the device; all ones when it is gone."""
        try:
            content = os.pread(self._fd, size, self._offset + offset)
        except OSError as error:
            log.debug(f"{self._name}: {error.strerror}")
            content = b""
        return int.from_bytes(content.ljust(size, b"\xff"), "little")

    def write(self, offset: int, size: int, value: int) -> None:
        """Write to the device; ignored when it is gone."""
        try:
            os.pwrite(self._fd, value.to_bytes(size, "little"), self._offset + offset)
        except OSError as error:
            log.debug(f"{self._name}: {error.strerror}")


class Offset:
    """A view of `handler` that begins at its offset `start`."""

    def __init__(self, handler: DeviceRegisters, start: int) -> None:
        self._handler, self._start = handler, start

    def read(self, offset: int, size: int) -> int:
        """Read `handler` at `start` and `offset`."""
        return self._handler.read(self._start + offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write `handler` at `start` and `offset`."""
        self._handler.write(self._start + offset, size, value)


class VfioFunction(PciFunction):
    """A passed-through function; `gone` is called in the loop when the host requests release."""

    obstacle = "the state of a passed-through function is in the host's device and cannot be saved"

    def __init__(
        self, name: str, device: Device, group: str, container: VfioContainer,
        accelerator: Accelerator, loop: Loop,
    ) -> None:  # fmt: skip
        self._device, self._group, self._container = device, group, container
        self._accelerator, self._loop = accelerator, loop
        self.gone: Callable[[], None] = lambda: None
        offset, size, _ = device.region(vfio.CONFIG_REGION) or (0, 0, [])
        self._physical = DeviceRegisters(device.fd, offset, name)
        content = bytes(
            byte
            for at in range(0, size, 4)
            for byte in self._physical.read(at, 4).to_bytes(4, "little")
        ).ljust(regs.BYTES, b"\0")
        super().__init__(
            name,
            vendor=int.from_bytes(content[0:2], "little"),
            device=int.from_bytes(content[2:4], "little"),
            class_code=int.from_bytes(content[regs.CLASS_CODE : regs.CLASS_CODE + 3], "little"),
        )
        self._emulated = bytearray(regs.BYTES)
        """1 for each emulated byte of configuration space; the others are the device's own."""
        self._msix_events: MsixEvents | None = None
        self._msi: MsiEvents | None = None
        self._memories: list[DeviceMemory] = []
        self._adopt(content)
        self._pin = PinEvents(device, self, accelerator)
        self._add_bars(content)
        self._hide_extended(content)
        self.config.keep()
        self._request_fd = new_eventfd()
        self._watch_requests()

    def _adopt(self, content: bytes) -> None:
        """Set up the emulated registers: header, BARs, interrupt registers, MSI and MSI-X."""
        config = self.config
        for start, end in (
            (regs.HEADER_TYPE, regs.HEADER_TYPE + 1), (regs.BAR0, 0x28), (regs.ROM, 0x34),
            (regs.INTERRUPT_LINE, 0x3E),
        ):  # fmt: skip
            self._emulate(start, end)
        config.set(regs.HEADER_TYPE, 1, content[regs.HEADER_TYPE] & 0x7F & ~regs.MULTIFUNCTION)
        config.set(regs.INTERRUPT_PIN, 1, content[regs.INTERRUPT_PIN])
        self._table: tuple[int, int, int] | None = None
        for offset, kind in _capabilities(content):
            if kind == regs.CAP_MSIX:
                self._adopt_msix(content, offset)
            elif kind == regs.CAP_MSI:
                self._adopt_msi(content, offset)

    def _emulate(self, start: int, end: int) -> None:
        self._emulated[start:end] = b"\1" * (end - start)

    def _adopt_msix(self, content: bytes, offset: int) -> None:
        control = int.from_bytes(content[offset + 2 : offset + 4], "little")
        table = int.from_bytes(content[offset + 4 : offset + 8], "little")
        count = (control & 0x7FF) + 1
        self.config.set(offset + 2, 2, control & 0x7FF)
        self._emulate(offset + 2, offset + 4)
        msix = Msix(self, self._accelerator, count, offset)
        self._msix_events = MsixEvents(self._device, msix)
        msix.switched = self._update_interrupts
        self._table = table & 7, table & ~7, count * ENTRY.size

    def _adopt_msi(self, content: bytes, offset: int) -> None:
        control = int.from_bytes(content[offset + 2 : offset + 4], "little")
        # Per-vector masking is not offered: the device's mask bits are not emulated.
        control &= MSI_64_BIT | 0x000E
        self.config.set(offset + MSI_CONTROL, 2, control)
        self.config.allow(offset + MSI_CONTROL, 2, 0x0071)
        size = 14 if control & MSI_64_BIT else 10
        width = 8 if control & MSI_64_BIT else 4
        self.config.allow(offset + 4, width, (1 << 8 * width) - 4)
        self.config.allow(offset + 4 + width, 2, 0xFFFF)
        self._emulate(offset + 2, offset + size)
        self._msi = MsiEvents(self._device, self, self._accelerator, offset)

    def _add_bars(self, content: bytes) -> None:
        index = 0
        while index < BAR_COUNT:
            at = regs.BAR0 + 4 * index
            flags = content[at] & BAR_FLAGS
            region = self._device.region(index)
            if region is not None and region[1] >= 4:
                flags &= 3 if flags & BAR_IO else BAR_FLAGS
                self._add_bar(index, flags, *region)
            index += 2 if flags & BAR_64 and not flags & BAR_IO else 1
        rom = self._device.region(vfio.ROM_REGION)
        if rom is not None:
            self._add_bar(ROM_INDEX, 0, rom[0], rom[1], [])

    def _add_bar(
        self, index: int, flags: int, offset: int, size: int, areas: list[tuple[int, int]]
    ) -> None:
        name = f"{self.name}-bar{index}"
        registers = DeviceRegisters(self._device.fd, offset, name)
        special: list[tuple[int, Region]] = []
        if self._table is not None and self._table[0] == index and self.msix is not None:
            special.append((self._table[1], self.msix.table_region()))
        regions = list(special)
        cursor = 0
        # Pages of the MSI-X table are emulated as a whole; of the rest, mmappable areas are mapped.
        for start, length in [*self._mappable(areas, special), (size, 0)]:
            regions += _between(cursor, start, special, registers, name)
            if length:
                memory = DeviceMemory(self._device.fd, offset + start, length)
                self._memories.append(memory)
                regions.append((start, DeviceRegion(name, length, memory, 0)))
            cursor = start + length
        self.add_bar(index, size, regions, flags=flags)

    def _mappable(
        self, areas: list[tuple[int, int]], special: list[tuple[int, Region]]
    ) -> list[tuple[int, int]]:
        """Whole pages of `areas` without those that hold an emulated region (`special`)."""
        taken = [
            (at // PAGE * PAGE, -(-(at + region.size) // PAGE) * PAGE) for at, region in special
        ]
        pieces = [(start, start + length) for start, length in sorted(areas)]
        for low, high in taken:
            pieces = [
                piece
                for start, end in pieces
                for piece in ((start, min(end, low)), (max(start, high), end))
                if piece[0] < piece[1]
            ]
        whole = [(-(-start // PAGE) * PAGE, end // PAGE * PAGE) for start, end in pieces]
        return [(start, end - start) for start, end in whole if start < end]

    def _hide_extended(self, content: bytes) -> None:
        """Remove HIDDEN_EXTENDED capabilities from the extended chain (section 7.6.3)."""
        offset, before = EXTENDED, 0
        for _ in range(CAPABILITY_LIMIT):
            head = int.from_bytes(content[offset : offset + 4], "little")
            if head in (0, 0xFFFF_FFFF):
                return
            following = head >> 20
            if head & 0xFFFF in HIDDEN_EXTENDED:
                target, value = offset, following << 20
                if before:
                    target = before
                    value = self.config.get(before, 4) if self._emulated[before] else (
                        int.from_bytes(content[before : before + 4], "little"))  # fmt: skip
                    value = value & 0xF_FFFF | following << 20
                self.config.set(target, 4, value)
                self._emulate(target, target + 4)
            else:
                before = offset
            if following < EXTENDED:
                return
            offset = following & ~3

    def _watch_requests(self) -> None:
        if self._device.irq_count(vfio.RELEASE_REQUEST):
            self._device.set_irqs(vfio.RELEASE_REQUEST, [self._request_fd])
            self._loop.watch(self._request_fd, READABLE, self._requested)

    def _requested(self, _events: int) -> None:
        if not take_signal(self._request_fd):
            return
        self.gone()

    def read_config(self, offset: int, size: int) -> int:
        """Read emulated bytes from `config`, the others from the device."""
        ours = self._emulated[offset : offset + size]
        if all(ours):
            return super().read_config(offset, size)
        theirs = self._physical.read(offset, size).to_bytes(size, "little")
        if not any(ours):
            return int.from_bytes(theirs, "little")
        own = super().read_config(offset, size).to_bytes(size, "little")
        merged = bytes(o if is_ours else t for o, t, is_ours in zip(own, theirs, ours, strict=True))
        return int.from_bytes(merged, "little")

    def write_config(self, offset: int, size: int, value: int) -> None:
        """Write `config`, and to the device all bytes that are not emulated."""
        ours = self._emulated[offset : offset + size]
        if not any(ours):
            self._physical.write(offset, size, value)
        elif not all(ours):
            for at, byte in enumerate(value.to_bytes(size, "little"), start=offset):
                if not self._emulated[at]:
                    self._physical.write(at, 1, byte)
        super().write_config(offset, size, value)
        self._update_interrupts()

    def bus_renumbered(self) -> None:
        """The bus has another number, which messages carry from now on."""
        super().bus_renumbered()
        if self._msi is not None:
            self._msi.requester_changed()

    def _update_interrupts(self) -> None:
        """Switch to the one interrupt kind that the guest has enabled: MSI-X, MSI or pin."""
        messages = (self.msix is not None and self.msix.is_enabled) or (
            self._msi is not None and self._msi.is_enabled
        )
        if messages:
            self._pin.update(is_wanted=False)
        if self._msix_events is not None:
            self._msix_events.update()
        if self._msi is not None:
            self._msi.update()
        if not messages:
            self._pin.update(is_wanted=True)

    def attached(self) -> None:
        """The function was attached to its bus: reset the device and set up interrupts."""
        self._reset_device()
        self._update_interrupts()

    def reset(self) -> None:
        """Reset the function and the device to power-on state."""
        self._silence()
        super().reset()
        self._physical.write(regs.COMMAND, 2, 0)
        self._reset_device()
        if self.bus is not None:
            self._update_interrupts()

    def _reset_device(self) -> None:
        if not self._device.can_reset:
            return
        try:
            self._device.reset()
        except OSError as error:
            log.warn(f"{self.name}: cannot reset the device: {error.strerror}")

    def _silence(self) -> None:
        if self._msix_events is not None:
            self._msix_events.close()
        if self._msi is not None:
            self._msi.close()
        self._pin.close()

    def close(self) -> None:
        """Disable interrupts and close the device, which the kernel resets for the host."""
        self._silence()
        self._loop.unwatch(self._request_fd)
        self.bars.clear()
        self._memories.clear()
        self._device.close()
        os.close(self._request_fd)
        self._container.leave(self._group)


def _capabilities(content: bytes) -> list[tuple[int, int]]:
    """(offset, id) of each capability; a chain that loops ends."""
    found: list[tuple[int, int]] = []
    offset = content[regs.CAPABILITIES] & ~3
    while offset >= regs.FIRST_CAPABILITY and len(found) < CAPABILITY_LIMIT:
        found.append((offset, content[offset]))
        offset = content[offset + 1] & ~3
    return found


def _between(
    start: int,
    end: int,
    special: list[tuple[int, Region]],
    registers: DeviceRegisters,
    name: str,
) -> list[tuple[int, Region]]:
    """Regions for [start, end): those of `special`, and device registers between them."""
    regions: list[tuple[int, Region]] = []
    for at, region in sorted(special, key=lambda entry: entry[0]):
        if start <= at < end:
            if at > start:
                regions.append((start, IoRegion(name, at - start, Offset(registers, start))))
            start = at + region.size
    if start < end:
        regions.append((start, IoRegion(name, end - start, Offset(registers, start))))
    return regions
