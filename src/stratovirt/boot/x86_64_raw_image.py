"""Raw image of ``objcopy -O binary vmlinux``: loaded and entered at 16 MiB."""

from __future__ import annotations

import mmap

from stratovirt._native.guest_memory import GuestMemory
from stratovirt.boot.image import KernelFile
from stratovirt.boot.x86_64_image import X8664Image

LOAD_ADDRESS = 0x0100_0000
BANNER = b"Linux version "
"""Start of linux_banner, the only recognizable text in a raw image."""


def is_raw_image(file: KernelFile) -> bool:
    """Whether the file holds a kernel's banner."""
    if file.size < len(BANNER):
        return False
    with mmap.mmap(file.fd, 0, access=mmap.ACCESS_READ) as content:
        return content.find(BANNER) >= 0


def load_raw_image(file: KernelFile, memory: GuestMemory) -> X8664Image:
    """Load the file as it is; raises BootError when it does not fit."""
    file.load(memory, LOAD_ADDRESS, 0, file.size)
    return X8664Image(entry=LOAD_ADDRESS, end=LOAD_ADDRESS + file.size)
