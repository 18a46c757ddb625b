"""RAM of a machine: allocated once, placed where the board says."""

from __future__ import annotations

import os

from stratovirt._native.guest_memory import GuestMemory, RamMapping
from stratovirt.errors import StratovirtError
from stratovirt.memory.address_space import AddressSpace, RamRegion


class RamError(StratovirtError):
    """The host cannot give the memory asked for."""


def allocate(size_bytes: int, *, shared: bool, dump: bool) -> RamMapping:
    """Anonymous RAM of `size_bytes`; `shared` makes it a memfd other processes can map."""
    fd = -1
    try:
        if shared:
            fd = os.memfd_create("stratovirt-ram", os.MFD_CLOEXEC)
            os.ftruncate(fd, size_bytes)
        return RamMapping(size_bytes, fd, shared, dump)
    except OSError as error:
        raise RamError(
            f"-m {size_bytes >> 20}M: the host cannot map this much: {error.strerror}"
        ) from error
    finally:
        if fd >= 0:
            os.close(fd)


def place(
    memory: GuestMemory, space: AddressSpace, mapping: RamMapping, pieces: list[tuple[int, int]]
) -> None:
    """Put `mapping` at the (gpa, size) `pieces`, one after the other."""
    offset = 0
    for gpa, size in pieces:
        memory.add(gpa, mapping, offset, size)
        space.add(gpa, RamRegion(f"ram@0x{gpa:x}", size, mapping, offset))
        offset += size
    space.commit()
