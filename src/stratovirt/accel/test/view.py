"""The test client's accesses to memory and ports, as a vCPU's would go."""

from __future__ import annotations

import os

from stratovirt._native.dispatch import Dispatcher
from stratovirt._native.guest_memory import GuestMemory
from stratovirt.memory.address_space import AddressSpace, FlatRange, IoRegion, RamRegion, RomRegion


class Doorbell:
    """Signals an eventfd in user space, as KVM's ioeventfd does."""

    def __init__(self, fd: int, value: int | None) -> None:
        self.fd = fd
        self.value = value


class DoorbellRegister:
    """The register at one doorbell address: each write signals the matching eventfds."""

    def __init__(self) -> None:
        self.bells: list[Doorbell] = []

    def read(self, _offset: int, _size: int) -> int:
        """Zero: the register is only written."""
        return 0

    def write(self, _offset: int, _size: int, value: int) -> None:
        """Signal the eventfds that want this value, or any."""
        for bell in self.bells:
            if bell.value is None or bell.value == value:
                os.eventfd_write(bell.fd, 1)


class ClientView:
    """Memory and ports as the client sees them: RAM, flash, registers and doorbells."""

    def __init__(self, dispatcher: Dispatcher, memory: GuestMemory, space: AddressSpace) -> None:
        self._dispatcher, self._ram, self._memory = dispatcher, memory, space
        self._doorbells: dict[tuple[int, int], tuple[DoorbellRegister, IoRegion]] = {}

    def add_doorbell(self, fd: int, address: int, size: int, value: int | None) -> None:
        """Let writes of `value` to a memory address signal eventfd `fd`."""
        if (address, size) not in self._doorbells:
            handler = DoorbellRegister()
            region = IoRegion(f"doorbell@0x{address:x}", size, handler)
            self._memory.add(address, region, priority=2)
            self._memory.commit()
            self._doorbells[address, size] = (handler, region)
        self._doorbells[address, size][0].bells.append(Doorbell(fd, value))

    def remove_doorbell(self, fd: int, address: int, size: int, value: int | None) -> None:
        """Undo `add_doorbell`."""
        handler, region = self._doorbells[address, size]
        handler.bells = [b for b in handler.bells if (b.fd, b.value) != (fd, value)]
        if not handler.bells:
            del self._doorbells[address, size]
            self._memory.remove(region)
            self._memory.commit()

    def read_port(self, port: int, size: int) -> int:
        """Read an I/O port."""
        return self._dispatcher.read(True, port & 0xFFFF, size)

    def write_port(self, port: int, size: int, value: int) -> None:
        """Write an I/O port."""
        self._dispatcher.write(True, port & 0xFFFF, size, value)

    def _pieces(self, address: int, size: int) -> list[tuple[int, int, FlatRange | None]]:
        """Split an access into (address, size, range) at the boundaries of the flat view."""
        pieces: list[tuple[int, int, FlatRange | None]] = []
        end = address + size
        for flat in self._memory.view:
            if flat.start + flat.size <= address or flat.start >= end:
                continue
            if flat.start > address:
                pieces.append((address, flat.start - address, None))
                address = flat.start
            stop = min(end, flat.start + flat.size)
            pieces.append((address, stop - address, flat))
            address = stop
        if address < end:
            pieces.append((address, end - address, None))
        return pieces

    def read(self, address: int, size: int) -> bytes:
        """Read memory; what nothing answers is zeros."""
        result = b""
        for start, length, flat in self._pieces(address, size):
            if flat is None:
                result += bytes(length)
            elif isinstance(flat.region, RomRegion):
                offset = flat.region.offset + flat.offset + start - flat.start
                result += bytes(memoryview(flat.region.mapping)[offset : offset + length])  # type: ignore[arg-type]
            elif isinstance(flat.region, RamRegion):
                result += self._ram.read(start, length)
            else:
                for at, width in _accesses(start, length):
                    result += self._dispatcher.read(False, at, width).to_bytes(width, "little")
        return result

    def write(self, address: int, content: bytes) -> None:
        """Write memory; where nothing takes it, it is dropped."""
        for start, length, flat in self._pieces(address, len(content)):
            part = content[start - address : start - address + length]
            if flat is None:
                continue
            if isinstance(flat.region, RamRegion) and not flat.region.readonly:
                self._ram.write(start, part)
                continue
            for at, width in _accesses(start, length):
                value = int.from_bytes(part[at - start : at - start + width], "little")
                self._dispatcher.write(False, at, width, value)


def _accesses(address: int, size: int) -> list[tuple[int, int]]:
    """Split a range of registers into aligned accesses of at most 8 bytes."""
    accesses: list[tuple[int, int]] = []
    while size:
        width = next(w for w in (8, 4, 2, 1) if w <= size and address % w == 0)
        accesses.append((address, width))
        address += width
        size -= width
    return accesses
