"""Loads a Linux kernel, its command line and its tables into the RAM of an x86_64 board."""

from __future__ import annotations

from stratovirt._native.guest_memory import GuestMemory
from stratovirt.boot.image import BootError, BootFile, KernelFile
from stratovirt.boot.x86_64_boot_params import E820_RAM, E820_RESERVED, boot_params
from stratovirt.boot.x86_64_bzimage import is_bzimage, load_bzimage
from stratovirt.boot.x86_64_elf import is_elf, load_elf
from stratovirt.boot.x86_64_image import X8664Image
from stratovirt.boot.x86_64_raw_image import is_raw_image, load_raw_image
from stratovirt.cpu.x86_64_boot import EntryPoint, write_descriptor_tables, write_page_tables

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

ZERO_PAGE = 0x7000
BOOT_STACK = 0x8FF0
PAGE_TABLES = 0x9000
COMMAND_LINE = 0x2_0000
COMMAND_LINE_ROOM = 0x1_0000
EBDA = 0x9_FC00
LOW_RAM_TOP = 0xA_0000
ACPI_TABLES = 0xE_0000
GENERATION_ID = 0xF_F000
"""VM generation ID: in reserved memory, as its specification requires, after the tables."""
RESET_VECTOR = 0xF_FFF0
"""F000:FFF0, Linux's real-mode jump target when no other reboot method works."""
RESET_CODE = bytes.fromhex("b0fe e664 f4 ebfd")
"""Code at the reset vector: mov al, 0xfe; out 0x64, al (reset by the i8042); hlt loop."""
HIGH_RAM = 0x10_0000


def load_kernel(file: KernelFile, memory: GuestMemory) -> X8664Image:
    """Load a kernel of any supported format; raises BootError."""
    if is_bzimage(file):
        return load_bzimage(file, memory)
    if is_elf(file):
        return load_elf(file, memory)
    if is_raw_image(file):
        return load_raw_image(file, memory)
    raise file.error("not a Linux kernel: no bzImage, ELF vmlinux or raw image")


def load_linux(
    *,
    kernel: KernelFile,
    initrd: BootFile | None,
    command_line: bytes,
    memory: GuestMemory,
    ram: list[tuple[int, int]],
    reserved: Sequence[tuple[int, int]] = (),
) -> EntryPoint:
    """Load kernel, initrd, command line and boot tables; returns the entry. Raises BootError.

    `ram` is (gpa, size), lowest first; `reserved` becomes reserved ranges of the e820 map.
    """
    image = load_kernel(kernel, memory)
    low_end = ram[0][0] + ram[0][1]
    placed = None
    if initrd is not None:
        from stratovirt.boot.initrd import load_initrd

        placed = load_initrd(initrd, image, memory, low_end)
    limit = min(image.command_line_limit, COMMAND_LINE_ROOM - 1)
    if len(command_line) > limit:
        raise BootError(
            f"-append: the command line has {len(command_line)} bytes with what the board adds; "
            f"this kernel takes at most {limit}"
        )
    memory.write(COMMAND_LINE, command_line + b"\0")
    e820 = [
        (0, EBDA, E820_RAM),
        (EBDA, LOW_RAM_TOP - EBDA, E820_RESERVED),
        (ACPI_TABLES, HIGH_RAM - ACPI_TABLES, E820_RESERVED),
        (HIGH_RAM, low_end - HIGH_RAM, E820_RAM),
        *((gpa, size, E820_RESERVED) for gpa, size in reserved),
        *((gpa, size, E820_RAM) for gpa, size in ram[1:]),
    ]
    memory.write(
        ZERO_PAGE,
        boot_params(
            setup_header=image.setup_header,
            command_line_gpa=COMMAND_LINE,
            initrd=placed,
            e820=e820,
            rsdp=ACPI_TABLES,
        ),
    )
    memory.write(RESET_VECTOR, RESET_CODE)
    write_page_tables(memory, PAGE_TABLES)
    write_descriptor_tables(memory)
    return EntryPoint(image.entry, ZERO_PAGE, PAGE_TABLES, BOOT_STACK)
