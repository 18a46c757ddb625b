"""The table loader script (QEMU's bios-linker-loader), by which firmware places ACPI tables.

Tables are built for address 0 of their file; the script tells firmware which fields are pointers.
"""

from __future__ import annotations

import struct

from stratovirt.acpi import tables

TABLES_FILE, RSDP_FILE, SCRIPT_FILE = "etc/acpi/tables", "etc/acpi/rsdp", "etc/table-loader"
ALLOCATE, ADD_POINTER, ADD_CHECKSUM = 1, 2, 3
ZONE_HIGH, ZONE_FSEG = 1, 2
COMMAND_BYTES = 128
CHECKSUM_OFFSET = 9
RSDP_BYTES, RSDP_SHORT_BYTES = 36, 20
RSDP_CHECKSUM, RSDP_XSDT, RSDP_WHOLE_CHECKSUM = 8, 24, 32


def _command(body: bytes) -> bytes:
    return body.ljust(COMMAND_BYTES, b"\0")


def allocate(file: str, alignment: int, zone: int) -> bytes:
    """Command: allocate memory for a file and load it."""
    return _command(struct.pack("<I56sIB", ALLOCATE, file.encode(), alignment, zone))


def add_pointer(file: str, target: str, offset: int, size: int) -> bytes:
    """Command: add `target`'s address to a pointer in `file`."""
    return _command(
        struct.pack("<I56s56sIB", ADD_POINTER, file.encode(), target.encode(), offset, size)
    )


def add_checksum(file: str, result: int, start: int, length: int) -> bytes:
    """Command: compute the checksum of a range of `file`."""
    return _command(struct.pack("<I56sIII", ADD_CHECKSUM, file.encode(), result, start, length))


def script(placed: list[tuple[int, bytes]]) -> tuple[bytes, bytes, bytes]:
    """The tables file, the RSDP file and the script for tables laid out from address 0.

    `placed` is what `tables.lay_out` returns.
    """
    rsdp = next(content for _, content in placed if content.startswith(b"RSD PTR "))
    blob = bytearray(max(at + len(content) for at, content in placed))
    commands = [allocate(TABLES_FILE, 64, ZONE_HIGH), allocate(RSDP_FILE, 16, ZONE_FSEG)]
    for at, content in placed:
        if content is rsdp:
            continue
        blob[at : at + len(content)] = content
        pointers = _pointers(content)
        for offset, size in pointers:
            commands.append(add_pointer(TABLES_FILE, TABLES_FILE, at + offset, size))
        if pointers:
            blob[at + CHECKSUM_OFFSET] = 0
            commands.append(add_checksum(TABLES_FILE, at + CHECKSUM_OFFSET, at, len(content)))
    commands.append(add_pointer(RSDP_FILE, TABLES_FILE, RSDP_XSDT, 8))
    commands.append(add_checksum(RSDP_FILE, RSDP_CHECKSUM, 0, RSDP_SHORT_BYTES))
    commands.append(add_checksum(RSDP_FILE, RSDP_WHOLE_CHECKSUM, 0, RSDP_BYTES))
    bare = bytearray(rsdp)
    bare[RSDP_CHECKSUM] = bare[RSDP_WHOLE_CHECKSUM] = 0
    return bytes(blob), bytes(bare), b"".join(commands)


def _pointers(content: bytes) -> list[tuple[int, int]]:
    """(offset, size) of the pointers in a table."""
    signature = content[:4]
    if signature == b"XSDT":
        return [(at, 8) for at in range(tables.HEADER.size, len(content), 8)]
    if signature == b"FACP":
        return [(tables.FADT_FIRMWARE_CTRL, 4), (tables.FADT_DSDT, 4), (tables.FADT_X_DSDT, 8)]
    return []
