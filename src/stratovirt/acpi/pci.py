"""The host bridge and its interrupts for the guest's DSDT (PCI Firmware 3.2, chapter 4)."""

from __future__ import annotations

from stratovirt.acpi import aml

OSC_UUID = "33DB4D5B-1FF7-401C-9657-7441C03DD766"
NATIVE_HOTPLUG, PME, AER, CAPABILITY = 1 << 0, 1 << 2, 1 << 3, 1 << 4
GRANTED = NATIVE_HOTPLUG | PME | AER | CAPABILITY
"""_OSC control bits granted to the operating system (table 4-5)."""
UNKNOWN_UUID, UNKNOWN_REVISION, MASKED = 1 << 2, 1 << 3, 1 << 4
SLOTS, PINS = 32, 4


def _osc() -> aml.Term:
    """_OSC (section 4.5.1): grants the control bits of GRANTED."""
    status, control = aml.reference("CDW1"), aml.reference("CDW3")
    return aml.method(
        "_OSC",
        4,
        aml.dword_field(aml.ARG3, 0, "CDW1"),
        aml.if_(
            aml.equal(aml.ARG0, aml.uuid(OSC_UUID)),
            aml.dword_field(aml.ARG3, 4, "CDW2"),
            aml.dword_field(aml.ARG3, 8, "CDW3"),
            aml.and_(control, GRANTED, aml.LOCAL0),
            aml.if_(
                aml.not_(aml.equal(aml.ARG1, aml.constant(1))),
                aml.or_(status, UNKNOWN_REVISION, status),
            ),
            aml.if_(
                aml.not_(aml.equal(control, aml.LOCAL0)),
                aml.or_(status, MASKED, status),
            ),
            aml.assign(aml.LOCAL0, control),
        ),
        aml.else_(aml.or_(status, UNKNOWN_UUID, status)),
        aml.return_(aml.ARG3),
    )


def _prt(first_gsi: int) -> aml.Term:
    """_PRT (ACPI 6.5, section 6.2.13): four GSIs, rotated by slot number."""
    rows = [
        aml.package(slot << 16 | 0xFFFF, pin, 0, first_gsi + (slot + pin) % PINS)
        for slot in range(SLOTS)
        for pin in range(PINS)
    ]
    return aml.name("_PRT", aml.package(*rows))


def _fixed_memory(base: int, size: int) -> bytes:
    if base + size <= 1 << 32:
        return aml.memory32(base, size)
    return aml.window64(base, base + size - 1)


def host_bridge(
    *,
    ecam: tuple[int, int],
    ports: tuple[bytes, ...],
    windows: list[tuple[int, int]],
    high_window: tuple[int, int],
    first_gsi: int,
    children: list[aml.Term],
) -> aml.Term:
    """PCI0; `windows` and `high_window` are the first and last address of memory for BARs.

    `ports` are the resource descriptors of its I/O ports.
    """
    base, size = ecam
    pci_express, pci = (aml.Term(aml.encode(aml.eisa_id(name))) for name in ("PNP0A08", "PNP0A03"))
    resources = aml.resources(
        aml.window16(aml.BUS_RANGE, 0, (size >> 20) - 1),
        *ports,
        *(aml.window32(first, last) for first, last in windows),
        aml.window64(*high_window),
    )
    return aml.device(
        "PCI0",
        aml.name("_HID", pci_express),
        aml.name("_CID", pci),
        aml.name("_UID", 0),
        aml.name("_SEG", 0),
        aml.name("_BBN", 0),
        aml.name("_CRS", resources),
        _prt(first_gsi),
        _osc(),
        aml.device(
            "ECAM",
            aml.name("_HID", aml.Term(aml.encode(aml.eisa_id("PNP0C02")))),
            aml.name("_UID", 1),
            aml.name("_CRS", aml.resources(_fixed_memory(base, size))),
        ),
        *children,
    )
