"""A virtio driver's half of a split ring, written through any memory-like object."""

import struct
from typing import Protocol

DESC_NEXT, DESC_WRITE, DESC_INDIRECT = 1, 2, 4


class Memory(Protocol):
    """Guest memory, whoever holds it."""

    def read(self, gpa: int, size: int) -> bytes: ...
    def write(self, gpa: int, data: bytes) -> None: ...


class DriverRing:
    """Descriptor table, available and used rings from `base` on, for `size` descriptors."""

    def __init__(self, memory: Memory, base: int, size: int) -> None:
        self.memory, self.size = memory, size
        self.desc = base
        self.avail = base + 16 * size
        self.used = (self.avail + 6 + 2 * size + 3) & ~3
        self.next_avail = 0
        self.memory.write(base, bytes(self.used + 6 + 8 * size - base))

    def keep_used_at(self, base: int) -> None:
        """Have the used ring elsewhere: in a page that only the device writes."""
        self.used = base
        self.memory.write(base, bytes(6 + 8 * self.size))

    def describe(
        self, index: int, addr: int, length: int, flags: int = 0, following: int = 0
    ) -> None:
        self.memory.write(
            self.desc + 16 * index, struct.pack("<QIHH", addr, length, flags, following)
        )

    def chain(self, pieces: list[tuple[int, int, bool]], first: int = 0) -> int:
        """Describe (addr, length, writable) pieces as one chain; returns its head."""
        for number, (addr, length, writable) in enumerate(pieces):
            flags = DESC_WRITE if writable else 0
            if number + 1 < len(pieces):
                flags |= DESC_NEXT
            self.describe(first + number, addr, length, flags, first + number + 1)
        return first

    def offer(self, head: int) -> None:
        """Make a chain available."""
        slot = self.avail + 4 + 2 * (self.next_avail % self.size)
        self.memory.write(slot, struct.pack("<H", head))
        self.next_avail += 1
        self.memory.write(self.avail + 2, struct.pack("<H", self.next_avail & 0xFFFF))

    def want_interrupt_after(self, used_index: int) -> None:
        """Set used_event, which counts with VIRTIO_F_EVENT_IDX."""
        self.memory.write(self.avail + 4 + 2 * self.size, struct.pack("<H", used_index & 0xFFFF))

    def used_index(self) -> int:
        return int(struct.unpack("<H", self.memory.read(self.used + 2, 2))[0])

    def used_element(self, index: int) -> tuple[int, int]:
        at = self.used + 4 + 8 * (index % self.size)
        head, length = struct.unpack("<II", self.memory.read(at, 8))
        return head, length
