"""x86_64's processors and interrupt controllers in the ACPI table MADT."""

from __future__ import annotations

import struct

from stratovirt.acpi.tables import table

MAX_XAPIC_ID = 254
LAPIC_ENABLED, LAPIC_ONLINE_CAPABLE = 1, 2
LEVEL_HIGH = 0xD
"""MPS INTI flags: level-triggered, active high."""


def madt(
    *,
    lapic: int,
    cpus: list[tuple[int, bool]],
    ioapic_id: int,
    ioapic: int,
    level_irqs: tuple[int, ...] = (),
    has_pic: bool = False,
) -> bytes:
    """The MADT (5.2.12): local APICs, one IOAPIC from GSI 0, NMI on LINT1.

    `cpus` are (APIC id, whether it is there); those that are not are online capable.
    `level_irqs` are ISA interrupts that are not edge-triggered.
    """
    body = struct.pack("<II", lapic, int(has_pic))
    for uid, (apic_id, is_present) in enumerate(cpus):
        flags = LAPIC_ENABLED if is_present else LAPIC_ONLINE_CAPABLE
        if apic_id <= MAX_XAPIC_ID:
            body += struct.pack("<BBBBI", 0, 8, uid, apic_id, flags)
        else:
            body += struct.pack("<BBHIII", 9, 16, 0, apic_id, flags, uid)
    body += struct.pack("<BBBBII", 1, 12, ioapic_id, 0, ioapic, 0)
    for number in level_irqs:
        body += struct.pack("<BBBBIH", 2, 10, 0, number, number, LEVEL_HIGH)
    body += struct.pack("<BBBHB", 4, 6, 0xFF, 0, 1)
    return table(b"APIC", 5, body)
