"""Inherited file descriptors: the standard streams, and those named by number in options."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

STREAMS = ("stdin", "stdout", "stderr")


def open_at_once(path: str, flags: int, mode: int = 0o600) -> int:
    """Open a file with close-on-exec and without blocking in open(2); raises OSError.

    Opening a FIFO or a device may otherwise block; the caller checks the file's type and refuses
    an unsuitable one.
    """
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, mode)
    os.set_blocking(fd, True)
    return fd


class DescriptorError(ValueError):
    """A number is not an open file descriptor of this process."""


def take_descriptors(wanted: Sequence[tuple[str, str]]) -> list[int]:
    """Take the descriptors of (option, number) pairs; this process owns them from now on.

    Raises DescriptorError naming the option, after closing the valid descriptors.
    """
    taken: dict[int, str] = {}
    wrong = ""
    for option, name in wanted:
        try:
            fd = take_descriptor(name)
        except DescriptorError as error:
            wrong = wrong or f"{option}={name}: {error}"
            continue
        if fd in taken:
            wrong = wrong or f"{option}={name}: {taken[fd]} has it already"
        taken[fd] = option
    if wrong:
        for fd in taken:
            os.close(fd)
        raise DescriptorError(wrong)
    return list(taken)


def take_descriptor(name: str) -> int:
    """Take the descriptor with this number, owned from now on; raises DescriptorError."""
    if not (name.isascii() and name.isdigit() and len(name) < 10) or int(name) < 3:
        raise DescriptorError("must be the number of an open file descriptor from 3 on")
    fd = int(name)
    close_on_exec(fd)
    return fd


def close_on_exec(fd: int) -> None:
    """Set close-on-exec; raises DescriptorError if `fd` is not open or an O_PATH descriptor.

    os.set_inheritable accepts O_PATH ones, which are useless here, by a system call that the
    seccomp filter forbids.
    """
    import fcntl

    from stratovirt._native.ioctl_numbers import FIOCLEX

    try:
        fcntl.ioctl(fd, FIOCLEX)
    except OSError as error:
        raise DescriptorError(
            "no such file descriptor is open, or it was opened with O_PATH"
        ) from error


def fill_standard_streams() -> None:
    """Open /dev/null for each closed descriptor 0, 1 or 2, before other files get its number."""
    for number, name in enumerate(STREAMS):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            # Python found it closed; print() would take another stream for it.
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8"))
