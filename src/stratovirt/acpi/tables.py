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
    """Generic Address Structure of an 8-bit I/O port; all zeros for port 0."""
    return struct.pack("<BBBBQ", SYSTEM_IO, 8, 0, 1, port) if port else bytes(12)


FADT_FIRMWARE_CTRL, FADT_SCI_INT, FADT_PM1A_EVT, FADT_PM1A_CNT = 36, 46, 56, 64
FADT_PM_TMR, FADT_GPE0, FADT_PM1_EVT_LEN = 76, 80, 88
FADT_P_LVL2_LAT, FADT_CENTURY, FADT_X_FIRMWARE_CTRL = 96, 108, 132
FADT_X_PM1A_EVT, FADT_X_PM1A_CNT, FADT_X_PM_TMR, FADT_X_GPE0 = 148, 172, 208, 220
FLAG_PROC_C1, FLAG_FIX_RTC = 1 << 2, 1 << 6
ARCH_LEGACY, ARCH_8042 = 1 << 0, 1 << 1
LATENCY_NONE = 0xFFF


def fixed_fadt(
    *,
    facs: int,
    dsdt: int,
    sci: int,
    pm: int,
    reset_port: int,
    reset_value: int,
    century: int,
) -> bytes:
    """The FADT of a board with ACPI's fixed hardware, whose block is at port `pm` (5.2.9)."""
    content = bytearray(FADT_BYTES)

    def put(layout: str, offset: int, *values: int) -> None:
        struct.pack_into("<" + layout, content, offset, *values)

    def put_block(short: int, whole: int, port: int, size: int) -> None:
        put("I", short, port)
        content[whole : whole + 12] = struct.pack(
            "<BBBBQ", SYSTEM_IO, 8 * size, 0, 3 if size == 4 else 2, port
        )

    # Only one of the FACS's two address fields may be set (table 5.9).
    put("I", FADT_FIRMWARE_CTRL, facs)
    put("I", FADT_DSDT, dsdt)
    put("Q", FADT_X_DSDT, dsdt)
    put("H", FADT_SCI_INT, sci)
    put_block(FADT_PM1A_EVT, FADT_X_PM1A_EVT, pm, 4)
    put_block(FADT_PM1A_CNT, FADT_X_PM1A_CNT, pm + 4, 2)
    put_block(FADT_PM_TMR, FADT_X_PM_TMR, pm + 8, 4)
    put("I", FADT_GPE0, pm + 0x20)
    content[FADT_X_GPE0 : FADT_X_GPE0 + 12] = struct.pack("<BBBBQ", SYSTEM_IO, 128, 0, 1, pm + 0x20)
    put("BBBBB", FADT_PM1_EVT_LEN, 4, 2, 0, 4, 16)
    put("HH", FADT_P_LVL2_LAT, LATENCY_NONE, LATENCY_NONE)
    content[FADT_CENTURY] = century
    put("H", FADT_IAPC_BOOT_ARCH, ARCH_NO_VGA | ARCH_LEGACY)
    put(
        "I", FADT_FLAGS,
        FLAG_WBINVD | FLAG_PROC_C1 | FLAG_SLP_BUTTON | FLAG_FIX_RTC | FLAG_RESET_REG,
    )  # fmt: skip
    content[FADT_RESET_REG : FADT_RESET_REG + 12] = generic_address(reset_port)
    content[FADT_RESET_VALUE] = reset_value
    content[FADT_MINOR_VERSION] = FADT_MINOR
    content[FADT_HYPERVISOR_ID : FADT_HYPERVISOR_ID + 8] = b"STRATOVM"
    return table(b"FACP", FADT_REVISION, bytes(content[HEADER.size :]))


def facs() -> bytes:
    """The FACS (5.2.10), without a global lock holder or a waking vector; aligned to 64 bytes."""
    return struct.pack("<4sI", b"FACS", 64) + bytes(24) + b"\2" + bytes(31)


def mcfg(base: int, last_bus: int) -> bytes:
    """The MCFG (PCI Firmware 3.2, section 4.1.2): ECAM of segment 0, buses 0 to `last_bus`."""
    return table(b"MCFG", 1, bytes(8) + struct.pack("<QHBB4x", base, 0, 0, last_bus))


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
    fadt_of: Callable[[int, int], bytes],
    others: list[bytes],
    facs: bytes = b"",
) -> list[tuple[int, bytes]]:
    """Place RSDP, FACS, DSDT, FADT, the others and XSDT from `address` on, in that order.

    `fadt_of(dsdt_address, facs_address)` builds the FADT.  Returns (address, bytes) of each;
    raises ValueError when they reach past `limit`.
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

    facs_address = put(facs) if facs else 0
    dsdt_address = put(dsdt)
    listed.append(put(fadt_of(dsdt_address, facs_address)))
    listed += [put(content) for content in others]
    placed.append((address, rsdp(put(xsdt(listed)))))
    if cursor > limit:
        raise ValueError("the ACPI tables do not fit into their area")
    return placed
