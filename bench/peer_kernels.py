"""The same few instructions as kernels of two formats: they say one byte and halt."""

from __future__ import annotations

import struct

CODE = bytes.fromhex("66baf803b058eef4ebfd")
"""mov dx, 0x3f8; mov al, 'X'; out dx, al; hlt; jmp to the hlt: in 32-bit and 64-bit mode."""
LOAD_ADDRESS = 0x10_0000
XEN_ELFNOTE_PHYS32_ENTRY = 18
PT_LOAD, PT_NOTE = 1, 4


def pvh_elf() -> bytes:
    """An ELF executable for x86_64 with a PVH note, which enters at the same place."""
    note = struct.pack("<III4sI", 4, 4, XEN_ELFNOTE_PHYS32_ENTRY, b"Xen\0", LOAD_ADDRESS)
    code_at, note_at = 0x1000, 0x1000 + len(CODE.ljust(64, b"\xf4"))
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, LOAD_ADDRESS, 64, 0, 0, 64, 56, 2,
        0, 0, 0,
    )  # fmt: skip
    load = struct.pack("<IIQQQQQQ", PT_LOAD, 7, code_at, LOAD_ADDRESS, LOAD_ADDRESS, 64, 64, 4096)
    notes = struct.pack("<IIQQQQQQ", PT_NOTE, 4, note_at, 0, 0, len(note), len(note), 4)
    return (header + load + notes).ljust(code_at, b"\0") + CODE.ljust(64, b"\xf4") + note


def bzimage() -> bytes:
    """A bzImage (Linux boot protocol 2.12) with a 64-bit entry at 0x200 of the kernel proper."""
    image = bytearray(2 * 512)
    image[0x1F1] = 1  # one sector of setup code after the first
    image[0x1FE:0x200] = b"\x55\xaa"
    image[0x200:0x202] = b"\xeb\x6a"
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x206, 0x20C)
    image[0x211] = 1  # LOADED_HIGH
    struct.pack_into("<I", image, 0x214, LOAD_ADDRESS)
    struct.pack_into("<I", image, 0x22C, 0x7FFF_FFFF)  # initrd_addr_max
    struct.pack_into("<I", image, 0x230, 0x20_0000)  # kernel_alignment
    image[0x234] = 1  # relocatable
    struct.pack_into("<H", image, 0x236, 1)  # XLF_KERNEL_64
    struct.pack_into("<I", image, 0x238, 2047)  # cmdline_size
    struct.pack_into("<Q", image, 0x258, LOAD_ADDRESS)  # pref_address
    struct.pack_into("<I", image, 0x260, 0x1_0000)  # init_size
    body = CODE.ljust(0x200, b"\xf4") + CODE.ljust(0x200, b"\xf4")
    struct.pack_into("<I", image, 0x1F4, len(body) // 16)
    return bytes(image) + body
