"""The initial RAM disk: checked for truncation, placed as high as the kernel allows.

Linux takes any number of archives one after the other, each a cpio or a compressed one, with zeros
between them and with or without a trailer (init/initramfs.c).
"""

from __future__ import annotations

import os

from stratovirt._native.guest_memory import GuestMemory
from stratovirt.boot.image import BootFile, KernelImage

PAGE = 4096
MIB = 1 << 20
CPIO_MAGICS = (b"070701", b"070702")
CPIO_HEADER = 110
CPIO_DIGITS = b"0123456789abcdefABCDEF"
"""The header after its magic is thirteen numbers of eight of them."""
CPIO_LAST = b"TRAILER!!!"
XZ_MAGIC, XZ_FOOTER = b"\xfd7zXZ\0", b"YZ"
XZ_FOOTER_BYTES = 12
COMPRESSED = (
    b"\x1f\x8b", b"\x1f\x9e", b"BZh", b"\x5d\0", b"\xfd7", b"\x89L", b"\x02\x21", b"\x28\xb5",
)  # fmt: skip
"""Magic numbers of gzip, bzip2, lzma, xz, lzo, lz4 and zstd (lib/decompress.c)."""
BOOTCONFIG = b"#BOOTCONFIG\n"
"""Magic at the end of an initrd with an appended boot configuration."""


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
    gpa = place_initrd(file, size, kernel, low_ram_end)
    if memory.readinto_from(file.fd, gpa, size, 0) != size:
        raise file.error("the file became shorter while it was read")
    return gpa, size


def place_initrd(file: BootFile, size: int, kernel: KernelImage, low_ram_end: int) -> int:
    """Guest physical address for `size` bytes; raises BootError naming the size that fits."""
    top = min(kernel.initrd_below, low_ram_end)
    gpa = (top - size) & ~(PAGE - 1)
    if gpa >= kernel.end:
        return gpa
    first = -(-kernel.end // PAGE) * PAGE
    most = kernel.initrd_below - first
    if size > most:
        raise file.error(
            f"{size} bytes do not fit: this kernel takes at most {most}, whatever -m is"
        )
    needed = -(-(first + size) // MIB)
    raise file.error(
        f"{size} bytes do not fit behind the kernel, which ends at 0x{kernel.end:x}; "
        f"give the guest at least -m {needed}M"
    )


def _truncation(fd: int, size: int) -> str | None:
    """Text of the error if the file is truncated, else None; only cpio and xz are checked."""
    offset = 0
    while True:
        magic = os.pread(fd, 6, offset)
        if magic in CPIO_MAGICS:
            end, problem = _cpio_end(fd, offset, size)
        elif magic == XZ_MAGIC:
            end, problem = _xz_end(fd, offset, size)
        else:
            # The end of another compressed archive is known only to its decompressor.
            return None
        if problem is not None:
            return problem
        offset = _next_archive(fd, end, size)
        if offset == size:
            return None


def _cpio_end(fd: int, offset: int, size: int) -> tuple[int, str | None]:
    """End offset of the cpio archive, and the text of an error or None."""
    while True:
        header = os.pread(fd, CPIO_HEADER, offset)
        if len(header) < CPIO_HEADER or header[6:].translate(None, CPIO_DIGITS):
            return offset, "the cpio archive is truncated or damaged"
        file_size, name_size = int(header[54:62], 16), int(header[94:102], 16)
        name = os.pread(fd, min(name_size, PAGE), offset + CPIO_HEADER)
        end = _align4(offset + CPIO_HEADER + name_size) + file_size
        if end > size:
            return offset, "the cpio archive is truncated"
        offset = min(_align4(end), size)
        if name.rstrip(b"\0") == CPIO_LAST:
            return offset, None
        magic = os.pread(fd, 6, offset)
        if magic in CPIO_MAGICS:
            continue
        # Without a trailer the archive ends at the file's end, at zeros or at another archive.
        if not magic.strip(b"\0") or magic.startswith(COMPRESSED) or _has_bootconfig(fd, size):
            return offset, None
        return offset, "the cpio archive is damaged"


def _has_bootconfig(fd: int, size: int) -> bool:
    return BOOTCONFIG in os.pread(fd, 2 * len(BOOTCONFIG), max(0, size - 2 * len(BOOTCONFIG)))


def _xz_end(fd: int, offset: int, size: int) -> tuple[int, str | None]:
    """End offset of the xz stream, after the first footer with a valid checksum, and an error."""
    import zlib

    kept = b""
    at = offset
    while content := os.pread(fd, MIB, at):
        window = kept + content
        found = window.find(XZ_FOOTER)
        while found >= 0:
            start = found + len(XZ_FOOTER) - XZ_FOOTER_BYTES
            footer = window[max(0, start) : found]
            if start >= 0 and zlib.crc32(footer[4:]) == int.from_bytes(footer[:4], "little"):
                return at - len(kept) + found + len(XZ_FOOTER), None
            found = window.find(XZ_FOOTER, found + 1)
        at += len(content)
        kept = window[-XZ_FOOTER_BYTES + 1 :]
    return size, "the xz stream is truncated"


def _next_archive(fd: int, offset: int, size: int) -> int:
    """Offset of the next archive after zeros, which the kernel skips; `size` if none follows."""
    while content := os.pread(fd, MIB, offset):
        rest = content.lstrip(b"\0")
        if rest:
            return offset + len(content) - len(rest)
        offset += len(content)
    return size


def _align4(offset: int) -> int:
    return (offset + 3) & ~3
