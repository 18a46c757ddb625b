"""ELF vmlinux for x86_64: loaded by its program headers, entered at e_entry in long mode."""

from __future__ import annotations

import struct

from stratovirt._native.guest_memory import GuestMemory
from stratovirt.boot.image import KernelFile
from stratovirt.boot.x86_64_image import X8664Image

ELF_MAGIC = b"\x7fELF"
CLASS_64_LITTLE = b"\x02\x01"
EM_X86_64 = 62
PT_LOAD = 1
EHDR = struct.Struct("<16xHHIQQQIHHHHHH")
PHDR = struct.Struct("<IIQQQQQQ")
MAX_PROGRAM_HEADERS = 64


def is_elf(file: KernelFile) -> bool:
    """Whether the file starts like an ELF file."""
    return file.read(0, 4) == ELF_MAGIC


def load_elf(file: KernelFile, memory: GuestMemory) -> X8664Image:
    """Load every PT_LOAD segment at its physical address; raises BootError."""
    head = file.read(0, EHDR.size)
    if len(head) < EHDR.size:
        raise file.error("the file is truncated inside its ELF header")
    _, machine, _, entry, table, _, _, _, entry_size, count, *_ = EHDR.unpack(head)
    if head[4:6] != CLASS_64_LITTLE or machine != EM_X86_64:
        raise file.error("this ELF file is not for x86_64")
    if entry_size != PHDR.size or not 0 < count <= MAX_PROGRAM_HEADERS:
        raise file.error("this ELF file has no usable program headers; is it a vmlinux?")
    headers = file.read(table, PHDR.size * count)
    if len(headers) < PHDR.size * count:
        raise file.error("the file is truncated inside its program headers")
    end = 0
    entry_is_loaded = False
    for kind, _, offset, _, address, file_size, memory_size, _ in PHDR.iter_unpack(headers):
        if kind != PT_LOAD or memory_size == 0:
            continue
        if file_size > memory_size or not memory.contains(address, memory_size):
            raise file.error(f"a segment at 0x{address:x} does not fit into guest memory")
        file.load(memory, address, offset, file_size)
        entry_is_loaded |= address <= entry < address + file_size
        end = max(end, address + memory_size)
    if not entry_is_loaded:
        raise file.error("the ELF entry point is in no loaded segment; is it a vmlinux?")
    return X8664Image(entry=entry, end=end)
