"""The address and interrupt map of q35."""

from __future__ import annotations

MIB, GIB = 1 << 20, 1 << 30

LOW_RAM_END = 2 * GIB
HIGH_RAM_START = 4 * GIB

ECAM, ECAM_BYTES = 0xB000_0000, 256 * MIB
"""Place of ECAM (PCI configuration space) without firmware, which otherwise sets it."""
WINDOW_END = 0xFEC0_0000
"""End of the 32-bit PCI window, which starts after low RAM and excludes ECAM."""
IOAPIC = 0xFEC0_0000
LAPIC = 0xFEE0_0000
FLASH_END = 4 * GIB
FLASH_MOST = 8 * MIB

CONFIG_PORTS = 0xCF8
RESET_PORT = 0xCF9
RTC_PORT = 0x70
FW_CFG_PORT = 0x510
PM_PORTS = 0x600
"""Port of the power management block without firmware, which otherwise sets it."""

RTC_GSI = 8
SCI_GSI = 9
INTX_FIRST_GSI = 16

SMBIOS_ENTRY, SMBIOS_TABLES = 0xF_8000, 0xF_8020
"""SMBIOS without firmware: in the area that Linux searches; the ACPI tables end before."""
HIGH_WINDOW_ALIGNMENT = GIB


def ram_pieces(size: int) -> list[tuple[int, int]]:
    """(gpa, size) of the RAM pieces: below 2 GiB, the rest from 4 GiB."""
    low = min(size, LOW_RAM_END)
    return [(0, low)] if low == size else [(0, low), (HIGH_RAM_START, size - low)]


def low_windows(ecam: tuple[int, int], ram: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """(first, last) of each 32-bit PCI window: above low RAM, below WINDOW_END, without ECAM."""
    base, size = ecam
    start = max(ram[0][1], LOW_RAM_END)
    if base >= WINDOW_END:
        return [(start, WINDOW_END - 1)]
    pieces = [(start, base - 1), (base + size, WINDOW_END - 1)]
    return [(first, last) for first, last in pieces if first < last]


def high_window(ram: list[tuple[int, int]], address_bits: int) -> tuple[int, int]:
    """(first, last) of the 64-bit PCI window: from the end of RAM to that of the address space."""
    end = max(sum(ram[-1]), HIGH_RAM_START)
    return -(-end // HIGH_WINDOW_ALIGNMENT) * HIGH_WINDOW_ALIGNMENT, (1 << address_bits) - 1
