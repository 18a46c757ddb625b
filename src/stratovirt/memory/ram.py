"""RAM of a machine: allocated once, placed where the board says."""

from __future__ import annotations

import os

from stratovirt._native.guest_memory import GuestMemory, RamMapping
from stratovirt.config.kinds import size_text
from stratovirt.config.vm_config import VmConfig
from stratovirt.errors import StratovirtError
from stratovirt.memory.address_space import AddressSpace, RamRegion


class RamError(StratovirtError):
    """The host cannot give the memory asked for."""


def allocate(config: VmConfig) -> RamMapping:
    """All RAM of the machine: anonymous, shared (a memfd), or in a file of -mem-path."""
    size_bytes = config.memory.size
    shared = config.machine.mem_share
    fd = -1
    try:
        if config.mem_path is not None:
            fd = _open_backing(config.mem_path, size_bytes)
        elif shared:
            fd = os.memfd_create("stratovirt-ram", os.MFD_CLOEXEC)
            os.ftruncate(fd, size_bytes)
        return RamMapping(
            size_bytes, fd, shared, config.machine.dump_guest_core, config.mem_prealloc
        )
    except OSError as error:
        if config.mem_path is not None:
            raise RamError(
                f"-mem-path {config.mem_path}: cannot map {size_text(size_bytes)} there: "
                f"{error.strerror}"
            ) from error
        raise RamError(
            f"-m {size_text(size_bytes)}: the host cannot map this much: {error.strerror}"
        ) from error
    finally:
        if fd >= 0:
            os.close(fd)


def _open_backing(path: str, size_bytes: int) -> int:
    """A file of at least `size_bytes`: the one at `path`, or a nameless one in that folder."""
    if os.path.isdir(path):
        fd = _nameless_file(path)
        os.ftruncate(fd, size_bytes)
        return fd
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if os.fstat(fd).st_size < size_bytes:
        os.ftruncate(fd, size_bytes)
    return fd


def _nameless_file(folder: str) -> int:
    # Not O_TMPFILE, which hugetlbfs has only had since Linux 5.14.
    import tempfile

    fd, name = tempfile.mkstemp(prefix="stratovirt-ram-", dir=folder)
    os.unlink(name)
    return fd


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
