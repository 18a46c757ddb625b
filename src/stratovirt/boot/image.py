"""What a loaded kernel is, and the errors of files that cannot be one."""

from __future__ import annotations

import os

from stratovirt._native.guest_memory import GuestMemory
from stratovirt.errors import StratovirtError

X86_COMMAND_LINE_SIZE = 2048
"""COMMAND_LINE_SIZE of x86 kernels, for images that do not state their own limit."""
INITRD_BELOW = 0x3800_0000
"""The board's ceiling for an initrd, for images that do not state their own limit."""


class BootError(StratovirtError):
    """A kernel or initrd cannot be booted; the text names the option and the file."""


class KernelImage:
    """A kernel in guest memory: its 64-bit entry, where it ends, and what it said of itself."""

    __slots__ = ("command_line_limit", "end", "entry", "initrd_below", "setup_header")

    def __init__(
        self,
        *,
        entry: int,
        end: int,
        setup_header: bytes = b"",
        command_line_limit: int = X86_COMMAND_LINE_SIZE - 1,
        initrd_below: int = INITRD_BELOW,
    ) -> None:
        self.entry = entry
        self.end = end
        self.setup_header = setup_header
        self.command_line_limit = command_line_limit
        self.initrd_below = initrd_below


class KernelFile:
    """An open kernel file, read piece by piece; closed by `close`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = open_file("-kernel", path)
        self.size = os.fstat(self.fd).st_size

    def close(self) -> None:
        """Give back the descriptor."""
        os.close(self.fd)

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes at `offset`, none behind the end."""
        return os.pread(self.fd, size, offset) if offset < self.size else b""

    def load(self, memory: GuestMemory, gpa: int, offset: int, size: int) -> None:
        """Copy part of the file to guest memory; raises BootError when either is too short."""
        if offset + size > self.size:
            raise BootError(
                f"-kernel {self.path}: the file is truncated: it has {self.size} bytes "
                f"of {offset + size}"
            )
        if not memory.contains(gpa, size):
            raise self.error(f"does not fit into guest memory at 0x{gpa:x}; give the guest more -m")
        if memory.readinto_from(self.fd, gpa, size, offset) != size:
            raise self.error("became shorter while it was read")

    def error(self, problem: str) -> BootError:
        """An error about this file."""
        return BootError(f"-kernel {self.path}: {problem}")


def open_file(flag: str, path: str) -> int:
    """Open `path` for reading; raises BootError naming the option."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise BootError(f"{flag} {path}: cannot open: {error.strerror}") from error
    if not os.path.isfile(path):
        os.close(fd)
        raise BootError(f"{flag} {path}: not a regular file")
    return fd
