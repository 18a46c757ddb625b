"""A guest's view of PCI on the board: configuration cycles, BARs, and a virtio-pci driver."""

import struct
import time

from tests.board.conftest import Processor
from tests.board.virtio_driver import RING, VERSION_1
from tests.ring import DriverRing

ECAM = 0xB000_0000
MSIX_BAR, REGISTERS_BAR = 0xC000_0000, 0xC001_0000
COMMON, ISR, DEVICE, NOTIFY = 0x0000, 0x1000, 0x2000, 0x3000
MEMORY, MASTER = 2, 4
MESSAGE, DATA = 0xFEE0_0000, 0x40


class Function:
    """One function by bus, slot and function."""

    def __init__(self, cpu: Processor, slot: int, function: int = 0, bus: int = 0) -> None:
        self.cpu = cpu
        self._base = ECAM + (bus << 20) + (slot << 15) + (function << 12)

    def get(self, offset: int, size: int = 4) -> int:
        letter = {1: "b", 2: "w", 4: "l"}[size]
        return self.cpu.value(f"read{letter} {self._base + offset:x}")

    def set(self, offset: int, value: int, size: int = 4) -> None:
        letter = {1: "b", 2: "w", 4: "l"}[size]
        self.cpu.do(f"write{letter} {self._base + offset:x} {value:x}")

    def place(self, index: int, address: int) -> None:
        """Write a BAR; a 64-bit one as a whole."""
        self.set(0x10 + 4 * index, address & 0xFFFF_FFFF)
        if self.get(0x10 + 4 * index) & 4:
            self.set(0x14 + 4 * index, address >> 32)

    def capability(self, kind: int) -> int:
        """The offset of the first capability of a kind."""
        offset = self.get(0x34, 1)
        while offset:
            if self.get(offset, 1) == kind:
                return offset
            offset = self.get(offset + 1, 1)
        raise AssertionError(f"no capability {kind:#x}")


class PciDriver:
    """The driver of a virtio device, with MSI-X unless told otherwise."""

    def __init__(
        self, cpu: Processor, slot: int, *, bars: int = MSIX_BAR, bus: int = 0, function: int = 0
    ) -> None:
        self.cpu = cpu
        self.function = Function(cpu, slot, function, bus)
        self.msix, self.registers = bars, bars + REGISTERS_BAR - MSIX_BAR
        self.function.place(1, self.msix)
        self.function.place(4, self.registers)
        self.function.set(4, MEMORY | MASTER, 2)
        self.rings: list[DriverRing] = []

    def get(self, offset: int, size: int) -> int:
        letter = {1: "b", 2: "w", 4: "l", 8: "q"}[size]
        return self.cpu.value(f"read{letter} {self.registers + offset:x}")

    def set(self, offset: int, value: int, size: int) -> None:
        letter = {1: "b", 2: "w", 4: "l", 8: "q"}[size]
        self.cpu.do(f"write{letter} {self.registers + offset:x} {value:x}")

    def enable_msix(self, control: int = 0x8000) -> None:
        self.function.set(self.function.capability(0x11) + 2, control, 2)

    def set_vector(self, number: int, *, masked: bool = False) -> None:
        self.cpu.write(
            self.msix + 16 * number, struct.pack("<QII", MESSAGE, DATA + number, int(masked))
        )

    def spoke(self, number: int) -> bool:
        return self.cpu.ask(f"query_msix {MESSAGE} {DATA + number}") == "OK TRUE"

    def bring_up(
        self, queues: int = 1, *, msix: bool = True, size: int = 8, used_at: int | None = None
    ) -> list[DriverRing]:
        if msix:
            self.enable_msix()
            for number in range(queues):
                self.set_vector(number)
        for status in (0, 1, 3):
            self.set(0x14, status, 1)
        for word in (0, 1):
            self.set(0x08, word, 4)
            self.set(0x0C, VERSION_1 >> 32 * word & 0xFFFF_FFFF, 4)
        self.set(0x14, 11, 1)
        assert self.get(0x14, 1) == 11
        self.rings = [DriverRing(self.cpu, RING + 0x1000 * n, size) for n in range(queues)]
        for queue, ring in enumerate(self.rings):
            if used_at is not None:
                ring.keep_used_at(used_at + 0x1000 * queue)
            self.set(0x16, queue, 2)
            self.set(0x18, size, 2)
            if msix:
                self.set(0x1A, queue, 2)
            for offset, address in ((0x20, ring.desc), (0x28, ring.avail), (0x30, ring.used)):
                self.set(offset, address, 8)
            self.set(0x1C, 1, 2)
        self.set(0x14, 15, 1)
        return self.rings

    def kick(self, queue: int = 0) -> None:
        self.set(NOTIFY + 4 * queue, queue, 2)

    def done(self, ring: DriverRing, count: int) -> None:
        deadline = time.monotonic() + 10
        while ring.used_index() != count & 0xFFFF:
            assert time.monotonic() < deadline, "the chain never came back"
