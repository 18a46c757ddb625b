"""Static ACPI tables (ACPI 6.5, chapter 5), little endian, with checksums."""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

OEM_ID, OEM_TABLE_ID, CREATOR_ID = b"STRATO", b"STRATOVM", b"STRV"
HEADER = struct.Struct("<4sIBB6s8sI4sI")

FADT_BYTES = 276
FADT_REVISION, FADT_MINOR = 6, 5
FADT_DSDT, FADT_IAPC_BOOT_ARCH, FADT_FLAGS = 40, 109, 112
FADT_RESET_REG, FADT_RESET_VALUE, FADT_MINOR_VERSION = 116, 128, 131
FADT_X_DSDT, FADT_SLEEP_CONTROL, FADT_SLEEP_STATUS = 140, 244, 256
FADT_HYPERVISOR_ID = 268

FLAG_WBINVD, FLAG_PWR_BUTTON, FLAG_SLP_BUTTON = 1 << 0, 1 << 4, 1 << 5
FLAG_RESET_REG, FLAG_HW_REDUCED = 1 << 10, 1 << 20
ARCH_NO_VGA, ARCH_NO_MSI, ARCH_NO_CMOS_RTC = 1 << 2, 1 << 3, 1 << 5

SYSTEM_IO = 1

MAX_XAPIC_ID = 254


def table(signature: bytes, revision: int, body: bytes) -> bytes:
    """A system description table around `body`."""

    def header(checksum: int) -> bytes:
        return HEADER.pack(
            signature,
            HEADER.size + len(body),
            revision,
            checksum,
            OEM_ID,
            OEM_TABLE_ID,
            1,
            CREATOR_ID,
            1,
        )

    return header(-sum(header(0) + body) & 0xFF) + body


def generic_address(port: int) -> bytes:
    """Generic Address Structure of an 8-bit I/O port, or of nothing for port 0."""
    return struct.pack("<BBBBQ", SYSTEM_IO, 8, 0, 1, port) if port else bytes(12)


def fadt(
    *,
    dsdt: int,
    reset_port: int,
    reset_value: int,
    sleep_control: int,
    sleep_status: int,
) -> bytes:
    """The FADT of a hardware-reduced board (5.2.9): reset and sleep through I/O ports."""
    content = bytearray(FADT_BYTES)
    struct.pack_into("<I", content, FADT_DSDT, dsdt)
    struct.pack_into("<Q", content, FADT_X_DSDT, dsdt)
    struct.pack_into(
        "<H", content, FADT_IAPC_BOOT_ARCH, ARCH_NO_VGA | ARCH_NO_MSI | ARCH_NO_CMOS_RTC
    )
    struct.pack_into(
        "<I",
        content,
        FADT_FLAGS,
        FLAG_WBINVD | FLAG_PWR_BUTTON | FLAG_SLP_BUTTON | FLAG_RESET_REG | FLAG_HW_REDUCED,
    )
    content[FADT_RESET_REG : FADT_RESET_REG + 12] = generic_address(reset_port)
    content[FADT_RESET_VALUE] = reset_value
    content[FADT_MINOR_VERSION] = FADT_MINOR
    content[FADT_SLEEP_CONTROL : FADT_SLEEP_CONTROL + 12] = generic_address(sleep_control)
    content[FADT_SLEEP_STATUS : FADT_SLEEP_STATUS + 12] = generic_address(sleep_status)
    content[FADT_HYPERVISOR_ID : FADT_HYPERVISOR_ID + 8] = b"STRATOVM"
    return table(b"FACP", FADT_REVISION, bytes(content[HEADER.size :]))


def madt(*, lapic: int, apic_ids: list[int], ioapic_id: int, ioapic: int) -> bytes:
    """The MADT (5.2.12): local APICs, one IOAPIC from GSI 0, NMI on LINT1."""
    body = struct.pack("<II", lapic, 0)
    for uid, apic_id in enumerate(apic_ids):
        if apic_id <= MAX_XAPIC_ID:
            body += struct.pack("<BBBBI", 0, 8, uid, apic_id, 1)
        else:
            body += struct.pack("<BBHIII", 9, 16, 0, apic_id, 1, uid)
    body += struct.pack("<BBBBII", 1, 12, ioapic_id, 0, ioapic, 0)
    body += struct.pack("<BBBHB", 4, 6, 0xFF, 0, 1)
    return table(b"APIC", 5, body)


def xsdt(addresses: list[int]) -> bytes:
    """The XSDT (5.2.8): addresses of all other tables but the DSDT."""
    return table(b"XSDT", 1, struct.pack(f"<{len(addresses)}Q", *addresses))


def rsdp(xsdt_address: int) -> bytes:
    """The RSDP, revision 2 (5.2.5.3)."""

    def pointer(short: int, whole: int) -> bytes:
        return struct.pack(
            "<8sB6sBIIQB3x", b"RSD PTR ", short, OEM_ID, 2, 0, 36, xsdt_address, whole
        )

    short = -sum(pointer(0, 0)[:20]) & 0xFF
    return pointer(short, -sum(pointer(short, 0)) & 0xFF)


def lay_out(
    address: int,
    limit: int,
    dsdt: bytes,
    fadt_of: Callable[[int], bytes],
    others: list[bytes],
) -> list[tuple[int, bytes]]:
    """Place RSDP, DSDT, FADT, the others and XSDT from `address` on, in that order.

    `fadt_of(dsdt_address)` builds the FADT.  Returns (address, bytes) of each; raises ValueError
    when they reach past `limit`.
    """
    placed: list[tuple[int, bytes]] = []
    cursor = address + 64
    listed: list[int] = []

    def put(content: bytes) -> int:
        nonlocal cursor
        at = cursor
        placed.append((at, content))
        cursor = (at + len(content) + 15) & ~15
        return at

    dsdt_address = put(dsdt)
    listed.append(put(fadt_of(dsdt_address)))
    listed += [put(content) for content in others]
    placed.append((address, rsdp(put(xsdt(listed)))))
    if cursor > limit:
        raise ValueError("the ACPI tables do not fit into their area")
    return placed
