"""The MP table (Intel MultiProcessor Specification 1.4), for kernels without ACPI."""

from __future__ import annotations

import struct

LAPIC_VERSION = 0x14
IOAPIC_VERSION = 0x11
CPU_ENABLED, CPU_BOOT = 1, 2
CPU_SIGNATURE, CPU_FEATURES = 0x600, 0x201  # family 6; FPU and APIC on chip
IOAPIC_PINS = 24
INT, NMI, SMI, EXTINT = range(4)


def _checksum(content: bytes) -> int:
    return -sum(content) & 0xFF


def mp_table(
    cpus: list[tuple[int, bool]], ioapic_id: int, ioapic: int, lapic: int, address: int
) -> bytes:
    """Floating pointer and configuration table, to be placed at `address` (16-byte aligned).

    `cpus` are (APIC id, whether it is there).
    """
    entries: list[bytes] = []
    for number, (apic_id, is_present) in enumerate(cpus):
        flags = (CPU_ENABLED if is_present else 0) | (CPU_BOOT if number == 0 else 0)
        entries.append(
            struct.pack("<BBBBII8x", 0, apic_id, LAPIC_VERSION, flags, CPU_SIGNATURE, CPU_FEATURES)
        )
    entries.append(struct.pack("<BB6s", 1, 0, b"ISA   "))
    entries.append(struct.pack("<BBBBI", 2, ioapic_id, IOAPIC_VERSION, 1, ioapic))
    for irq in range(IOAPIC_PINS):
        entries.append(struct.pack("<BBHBBBB", 3, INT, 0, 0, irq, ioapic_id, irq))
    entries.append(struct.pack("<BBHBBBB", 4, EXTINT, 0, 0, 0, 0, 0))
    entries.append(struct.pack("<BBHBBBB", 4, NMI, 0, 0, 0, 0xFF, 1))
    body = b"".join(entries)

    def header(checksum: int) -> bytes:
        ids = b"STRATOV microvm     "
        size = 44 + len(body)
        return struct.pack(
            "<4sHBB20sIHHIHBB", b"PCMP", size, 4, checksum, ids, 0, 0, len(entries), lapic, 0, 0, 0
        )

    def pointer(checksum: int) -> bytes:
        return struct.pack("<4sIBBB5x", b"_MP_", address + 16, 1, 4, checksum)

    table = header(_checksum(header(0) + body)) + body
    return pointer(_checksum(pointer(0))) + table
