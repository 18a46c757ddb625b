"""The initial RAM disk: checked for being whole, placed as high as the kernel allows."""

from __future__ import annotations

import os

from stratovirt._native.guest_memory import GuestMemory
from stratovirt.boot.image import BootFile, KernelImage

PAGE = 4096
CPIO_MAGICS = (b"070701", b"070702")
CPIO_HEADER = 110
CPIO_LAST = b"TRAILER!!!"
XZ_MAGIC, XZ_FOOTER = b"\xfd7zXZ\0", b"YZ"


def load_initrd(
    file: BootFile,
    kernel: KernelImage,
    memory: GuestMemory,
    low_ram_end: int,
) -> tuple[int, int]:
    """Copy the file to guest memory; returns its (gpa, size). Raises BootError."""
    size = file.size
    problem = "the file is empty" if size == 0 else _truncation(file.fd, size)
    if problem is not None:
        raise file.error(problem)
    top = min(kernel.initrd_below, low_ram_end)
    gpa = (top - size) & ~(PAGE - 1)
    if gpa < kernel.end:
        raise file.error(
            f"{size} bytes do not fit between the kernel's end "
            f"0x{kernel.end:x} and 0x{top:x}; give the guest more -m"
        )
    if memory.readinto_from(file.fd, gpa, size, 0) != size:
        raise file.error("the file became shorter while it was read")
    return gpa, size


def _truncation(fd: int, size: int) -> str | None:
    """What says that the file was cut off, or None. Formats that cannot tell pass."""
    magic = os.pread(fd, 6, 0)
    if magic == XZ_MAGIC:
        tail = os.pread(fd, PAGE, max(0, size - PAGE)).rstrip(b"\0")
        return None if tail.endswith(XZ_FOOTER) else "the xz stream is truncated"
    offset = 0
    while magic in CPIO_MAGICS:
        header = os.pread(fd, CPIO_HEADER, offset)
        try:
            file_size, name_size = int(header[54:62], 16), int(header[94:102], 16)
        except ValueError:
            return "the cpio archive is truncated or damaged"
        name = os.pread(fd, min(name_size, PAGE), offset + CPIO_HEADER)
        offset = _align4(_align4(offset + CPIO_HEADER + name_size) + file_size)
        if name.rstrip(b"\0") == CPIO_LAST:
            # Another archive may follow; the kernel accepts compressed ones, which end the check.
            return None
        if offset >= size:
            return "the cpio archive is truncated"
        magic = os.pread(fd, 6, offset)
        if magic not in CPIO_MAGICS:
            return "the cpio archive is damaged"
    return None


def _align4(offset: int) -> int:
    return (offset + 3) & ~3
