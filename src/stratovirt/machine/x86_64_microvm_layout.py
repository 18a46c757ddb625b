"""The address and interrupt map of microvm on x86_64."""

from __future__ import annotations

GIB = 1 << 30

LOW_RAM_END = 3 * GIB
HIGH_RAM_START = 4 * GIB

VIRTIO_MMIO = 0xF010_0000
VIRTIO_GSIS = range(5, 16)
"""GSIs of the slots for devices of the command line."""
HOT_REPLACE_FIRST_GSI = 17
"""GSI of the first hot-replace slot, above the ISA interrupts."""

GED, GED_GSI = 0xF000_0000, 16

IOAPIC = 0xFEC0_0000
LAPIC = 0xFEE0_0000

SLEEP_PORT = 0x600


def ram_pieces(size: int) -> list[tuple[int, int]]:
    """(gpa, size) of the RAM pieces: below 3 GiB, the rest from 4 GiB."""
    low = min(size, LOW_RAM_END)
    return [(0, low)] if low == size else [(0, low), (HIGH_RAM_START, size - low)]
