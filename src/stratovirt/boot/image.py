"""Kernel and initrd files, the loaded kernel, and their errors."""

from __future__ import annotations

import os
import stat

from stratovirt._native.guest_memory import GuestMemory
from stratovirt.errors import StratovirtError
from stratovirt.runtime.descriptors import open_at_once


class BootError(StratovirtError):
    """A kernel or initrd cannot be booted; the text names the option and the file."""


class KernelImage:
    """A kernel in guest memory: its entry, its end, and its limits."""

    __slots__ = ("command_line_limit", "end", "entry", "initrd_below")

    def __init__(self, *, entry: int, end: int, command_line_limit: int, initrd_below: int) -> None:
        self.entry = entry
        self.end = end
        self.command_line_limit = command_line_limit
        self.initrd_below = initrd_below


class BootFile:
    """A kernel or initrd; it stays open, since a locked-down machine opens no files at a reset.

    Raises BootError naming the option.
    """

    def __init__(self, flag: str, path: str) -> None:
        self.flag, self.path = flag, path
        try:
            self.fd = open_at_once(path, os.O_RDONLY)
        except OSError as error:
            raise self.error(f"cannot open: {error.strerror}") from error
        status = os.fstat(self.fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(self.fd)
            raise self.error("not a regular file")
        self.size = status.st_size

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.fd)

    def error(self, problem: str) -> BootError:
        """A BootError naming option and file."""
        return BootError(f"{self.flag} {self.path}: {problem}")


class KernelFile(BootFile):
    """A kernel file, read in parts."""

    def __init__(self, path: str) -> None:
        super().__init__("-kernel", path)

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes at `offset`; empty past the end."""
        return os.pread(self.fd, size, offset) if offset < self.size else b""

    def load(self, memory: GuestMemory, gpa: int, offset: int, size: int) -> None:
        """Copy part of the file to guest memory; raises BootError if file or RAM is too small."""
        if offset + size > self.size:
            raise BootError(
                f"-kernel {self.path}: the file is truncated: it has {self.size} bytes "
                f"of {offset + size}"
            )
        if not memory.contains(gpa, size):
            raise self.error(f"does not fit into guest memory at 0x{gpa:x}; give the guest more -m")
        if memory.readinto_from(self.fd, gpa, size, offset) != size:
            raise self.error("became shorter while it was read")
