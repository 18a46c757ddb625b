"""bzImage (Documentation/arch/x86/boot.rst, boot protocol 2.12 and later), 64-bit entry."""

from __future__ import annotations

import struct

from stratovirt._native.guest_memory import GuestMemory
from stratovirt.boot.image import KernelFile
from stratovirt.boot.x86_64_image import X8664Image

SETUP_HEADER = 0x1F1
BOOT_FLAG, HEADER_MAGIC, VERSION = 0x1FE, 0x202, 0x206
XLOADFLAGS, PREF_ADDRESS, INIT_SIZE = 0x236, 0x258, 0x260
INITRD_ADDR_MAX, CMDLINE_SIZE, SYSSIZE = 0x22C, 0x238, 0x1F4
JUMP_LENGTH = 0x201
HEADER_BYTES = 0x270

VERSION_WITH_64BIT_ENTRY = 0x020C
XLF_KERNEL_64 = 1
DEFAULT_SETUP_SECTS = 4
SECTOR = 512
PARAGRAPH = 16

LOAD_ADDRESS = 0x10_0000
ENTRY_OFFSET = 0x200
"""The 64-bit entry point is this far into the protected-mode code."""


def is_bzimage(file: KernelFile) -> bool:
    """Whether the file has the boot sector signature and the header magic."""
    head = file.read(0, HEADER_BYTES)
    return head[BOOT_FLAG : BOOT_FLAG + 2] == b"\x55\xaa" and head[HEADER_MAGIC:VERSION] == b"HdrS"


def load_bzimage(file: KernelFile, memory: GuestMemory) -> X8664Image:
    """Load the protected-mode code; raises BootError when the image cannot be booted here."""
    head = file.read(0, HEADER_BYTES)
    if len(head) < HEADER_BYTES:
        raise file.error("the file is truncated inside its setup header")
    (version,) = struct.unpack_from("<H", head, VERSION)
    (flags,) = struct.unpack_from("<H", head, XLOADFLAGS)
    if version < VERSION_WITH_64BIT_ENTRY or not flags & XLF_KERNEL_64:
        raise file.error("this kernel has no 64-bit entry point (it is 32-bit or older than 3.8)")
    setup_sects = head[SETUP_HEADER] or DEFAULT_SETUP_SECTS
    start = (setup_sects + 1) * SECTOR
    (paragraphs,) = struct.unpack_from("<I", head, SYSSIZE)
    size = paragraphs * PARAGRAPH
    if start < file.size < start + size < file.size + PARAGRAPH:
        # syssize counts the last, started paragraph as a whole one.
        size = file.size - start
    file.load(memory, LOAD_ADDRESS, start, size)
    pref_address, init_size = struct.unpack_from("<QI", head, PREF_ADDRESS)
    if not memory.contains(pref_address, init_size):
        raise file.error(
            f"the kernel needs RAM up to 0x{pref_address + init_size:x} to unpack itself"
        )
    (initrd_addr_max,) = struct.unpack_from("<I", head, INITRD_ADDR_MAX)
    (command_line_limit,) = struct.unpack_from("<I", head, CMDLINE_SIZE)
    header_end = 0x202 + head[JUMP_LENGTH]
    return X8664Image(
        entry=LOAD_ADDRESS + ENTRY_OFFSET,
        end=max(pref_address + init_size, LOAD_ADDRESS + size),
        setup_header=head[SETUP_HEADER : min(header_end, HEADER_BYTES)],
        command_line_limit=command_line_limit,
        initrd_below=initrd_addr_max + 1,
    )
