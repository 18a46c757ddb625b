"""A virtio driver on the MMIO transport, working register by register as a guest would."""

import struct
import time

from tests.board.conftest import Processor
from tests.machine_process import wait_until
from tests.ring import DriverRing

BASE, GSI = 0xF010_0000, 5
SLOT_BYTES = 0x200
RING, HEADER, DATA, STATUS = 0x10_0000, 0x20_0000, 0x21_0000, 0x22_0000
VERSION_1, EVENT_IDX, INDIRECT = 1 << 32, 1 << 29, 1 << 28
NEEDS_RESET = 64
IN, OUT, FLUSH, GET_ID = 0, 1, 4, 8


class MmioDriver:
    """The driver of the device at `base`, whose interrupt is `gsi`."""

    def __init__(self, cpu: Processor, base: int = BASE, gsi: int = GSI) -> None:
        self.cpu, self.base, self.gsi = cpu, base, gsi
        self.rings: list[DriverRing] = []

    def get(self, offset: int) -> int:
        return self.cpu.value(f"readl {self.base + offset:x}")

    def set(self, offset: int, value: int) -> None:
        self.cpu.do(f"writel {self.base + offset:x} {value:x}")

    def features(self) -> int:
        found = 0
        for word in (0, 1):
            self.set(0x14, word)
            found |= self.get(0x10) << 32 * word
        return found

    def bring_up(
        self,
        queues: int,
        features: int = VERSION_1,
        size: int = 8,
        at: int = RING,
        used_at: int | None = None,
    ) -> list[DriverRing]:
        """Reset, agree, set up rings one page apart from `at` on, and say DRIVER_OK.

        With `used_at` the used rings have pages of their own.
        """
        for status in (0, 1, 3):
            self.set(0x70, status)
        for word in (0, 1):
            self.set(0x24, word)
            self.set(0x20, features >> 32 * word & 0xFFFF_FFFF)
        self.set(0x70, 11)
        assert self.get(0x70) == 11
        self.rings = [DriverRing(self.cpu, at + 0x1000 * n, size) for n in range(queues)]
        for queue, ring in enumerate(self.rings):
            if used_at is not None:
                ring.keep_used_at(used_at + 0x1000 * queue)
            self.place(ring.desc, ring.avail, ring.used, size, queue)
        self.set(0x70, 15)
        return self.rings

    def place(self, desc: int, avail: int, used: int, size: int, queue: int = 0) -> None:
        self.set(0x30, queue)
        self.set(0x38, size)
        for offset, address in ((0x80, desc), (0x90, avail), (0xA0, used)):
            self.set(offset, address & 0xFFFF_FFFF)
            self.set(offset + 4, address >> 32)
        self.set(0x44, 1)

    def done(self, ring: DriverRing, count: int) -> None:
        # Without a sleep in between: some tests measure a rate.
        deadline = time.monotonic() + 10
        while ring.used_index() != count & 0xFFFF:
            assert time.monotonic() < deadline, "the chain never came back"

    def interrupted(self) -> bool:
        deadline = time.monotonic() + 10
        while self.cpu.ask(f"eoi_intx {self.gsi}") != "OK TRUE":
            if time.monotonic() > deadline:
                return False
        return True

    def wait_needs_reset(self) -> None:
        wait_until(lambda: bool(self.get(0x70) & NEEDS_RESET), "NEEDS_RESET", timeout=10)


class BlkDriver(MmioDriver):
    """The driver of one disk."""

    completed = 0

    @property
    def ring(self) -> DriverRing:
        return self.rings[0]

    def start(self, features: int = VERSION_1, size: int = 8, at: int = RING) -> None:
        self.completed = 0
        self.bring_up(1, features, size, at)

    def capacity(self) -> int:
        return self.cpu.value(f"readq {self.base + 0x100:x}")

    def request(
        self, kind: int, sector: int, data: bytes = b"", length: int = 0
    ) -> tuple[int, bytes]:
        """One request; (status byte, bytes read)."""
        self.offer(kind, sector, data, length)
        return self.result(length)

    def offer(self, kind: int, sector: int, data: bytes = b"", length: int = 0) -> None:
        """Hand a request to the device, which completes it in its own time."""
        self.cpu.write(HEADER, struct.pack("<IIQ", kind, 0, sector))
        self.cpu.write(STATUS, b"\xff")
        pieces = [(HEADER, 16, False)]
        if data:
            self.cpu.write(DATA, data)
            pieces.append((DATA, len(data), False))
        if length:
            pieces.append((DATA, length, True))
        pieces.append((STATUS, 1, True))
        self.ring.want_interrupt_after(self.completed)
        self.ring.offer(self.ring.chain(pieces))
        self.set(0x50, 0)

    def is_complete(self) -> bool:
        """Whether the device has completed what was offered last."""
        return self.ring.used_index() != self.completed & 0xFFFF

    def result(self, length: int = 0) -> tuple[int, bytes]:
        """Wait for the request offered last; (status byte, bytes read)."""
        self.wait()
        return self.cpu.read(STATUS, 1)[0], self.cpu.read(DATA, length) if length else b""

    def wait(self) -> None:
        self.completed += 1
        self.done(self.ring, self.completed)
        assert self.interrupted()
