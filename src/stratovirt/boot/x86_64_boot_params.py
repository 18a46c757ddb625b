"""The zero page, struct boot_params (Documentation/arch/x86/zero-page.rst)."""

from __future__ import annotations

import struct

E820_RAM, E820_RESERVED = 1, 2
E820_ENTRIES, E820_TABLE, E820_MAX = 0x1E8, 0x2D0, 128
ACPI_RSDP_ADDR = 0x070
SETUP_HEADER = 0x1F1
SIZE = 4096

# Fields of the setup header, by their offset in the zero page.
BOOT_FLAG, HEADER_MAGIC = 0x1FE, 0x202
TYPE_OF_LOADER, LOADFLAGS = 0x210, 0x211
RAMDISK_IMAGE, RAMDISK_SIZE = 0x218, 0x21C
CMD_LINE_PTR = 0x228
KERNEL_ALIGNMENT = 0x230

LOADER_UNDEFINED = 0xFF
LOADED_HIGH = 1
DEFAULT_ALIGNMENT = 0x0100_0000


def boot_params(
    *,
    setup_header: bytes,
    command_line_gpa: int,
    initrd: tuple[int, int] | None,
    e820: list[tuple[int, int, int]],
    rsdp: int,
) -> bytes:
    """The 4096 bytes of the zero page; `e820` holds (start, size, type)."""
    page = bytearray(SIZE)
    page[SETUP_HEADER : SETUP_HEADER + len(setup_header)] = setup_header
    if not setup_header:
        struct.pack_into("<H", page, BOOT_FLAG, 0xAA55)
        page[HEADER_MAGIC : HEADER_MAGIC + 4] = b"HdrS"
        struct.pack_into("<I", page, KERNEL_ALIGNMENT, DEFAULT_ALIGNMENT)
    page[TYPE_OF_LOADER] = LOADER_UNDEFINED
    page[LOADFLAGS] |= LOADED_HIGH
    struct.pack_into("<I", page, CMD_LINE_PTR, command_line_gpa)
    if initrd is not None:
        struct.pack_into("<II", page, RAMDISK_IMAGE, *initrd)
    struct.pack_into("<Q", page, ACPI_RSDP_ADDR, rsdp)
    if len(e820) > E820_MAX:
        raise ValueError(f"more than {E820_MAX} e820 entries")
    page[E820_ENTRIES] = len(e820)
    for index, entry in enumerate(e820):
        struct.pack_into("<QQI", page, E820_TABLE + 20 * index, *entry)
    return bytes(page)
