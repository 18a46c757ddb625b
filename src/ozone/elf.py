"""ELF files: the dynamic loader and the shared objects that a program in a jail needs."""

from __future__ import annotations

import mmap
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
MAGIC = b"\x7fELF\x02\x01"
PT_LOAD, PT_DYNAMIC, PT_INTERP = 1, 2, 3
DYNAMIC = struct.Struct("<qQ")
DT_NULL, DT_NEEDED, DT_STRTAB, DT_RPATH, DT_RUNPATH = 0, 1, 5, 15, 29

Segment = tuple[int, int, int, int]
"""Type, offset in the file, address, bytes in the file."""


class Elf:
    """One file; raises ValueError unless it is a complete 64-bit little-endian ELF file."""

    def __init__(self, content: bytes | mmap.mmap) -> None:
        self._content = content
        if len(content) < HEADER.size or content[: len(MAGIC)] != MAGIC:
            raise ValueError("no ELF file")
        table, size, count = (HEADER.unpack_from(content)[index] for index in (5, 9, 10))
        if size != PROGRAM_HEADER.size or table + size * count > len(content):
            raise ValueError("no program headers")
        self.segments: list[Segment] = []
        for index in range(count):
            kind, _, offset, address, _, length, *_ = PROGRAM_HEADER.unpack_from(
                content, table + size * index
            )
            self.segments.append((kind, offset, address, length))

    @property
    def loader(self) -> str | None:
        """The dynamic loader; None for a static program."""
        for kind, offset, _, length in self.segments:
            if kind == PT_INTERP:
                return os.fsdecode(self._content[offset : offset + length].rstrip(b"\0"))
        return None

    def needs(self) -> set[tuple[str, str]]:
        """Names of the needed shared objects, each with the run path (RUNPATH, else RPATH)."""
        entries = list(self._dynamic())
        values = dict(entries)
        strings = self._offset_of(values.get(DT_STRTAB, 0))
        where = values.get(DT_RUNPATH, values.get(DT_RPATH))
        folders = self._text(strings + where) if where is not None else ""
        return {(self._text(strings + at), folders) for tag, at in entries if tag == DT_NEEDED}

    def _dynamic(self) -> Iterator[tuple[int, int]]:
        for kind, offset, _, length in self.segments:
            if kind == PT_DYNAMIC:
                for at in range(offset, offset + length, DYNAMIC.size):
                    tag, value = DYNAMIC.unpack_from(self._content, at)
                    if tag == DT_NULL:
                        return
                    yield tag, value

    def _offset_of(self, address: int) -> int:
        for kind, offset, start, length in self.segments:
            if kind == PT_LOAD and start <= address < start + length:
                return offset + address - start
        return 0

    def _text(self, at: int) -> str:
        return os.fsdecode(self._content[at : self._content.find(b"\0", at)])


def read_elf(path: str) -> Elf:
    """Read the file at `path`; raises OSError and ValueError."""
    with open(path, "rb") as file:
        return Elf(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
