"""File descriptors that the process was started with: the streams, and those given by number."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

STREAMS = ("stdin", "stdout", "stderr")

outputs = {0, 1, 2}
"""What is written for the user to read later, in which a machine must not punch holes."""


def open_at_once(path: str, flags: int, mode: int = 0o600) -> int:
    """Open a file of the user's, which no child inherits, and wait for nobody; raises OSError.

    To open a FIFO or a device takes as long as its other end likes; the caller looks at what it
    has opened and refuses what it cannot use.
    """
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, mode)
    os.set_blocking(fd, True)
    return fd


class DescriptorError(ValueError):
    """It is not an open file descriptor of this process."""


def take_descriptors(wanted: Sequence[tuple[str, str]]) -> list[int]:
    """The descriptors of pairs of an option and a number, all of them ours from now on.

    Raises DescriptorError that names the option, and then those that can be are closed.
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
    """The descriptor written as a number, ours from now on; raises DescriptorError."""
    if not (name.isascii() and name.isdigit() and len(name) < 10) or int(name) < 3:
        raise DescriptorError("must be the number of an open file descriptor from 3 on")
    fd = int(name)
    close_on_exec(fd)
    return fd


def close_on_exec(fd: int) -> None:
    """No child inherits it; raises DescriptorError when it is none, or one of O_PATH.

    os.set_inheritable does this to O_PATH ones as well, by a call that a locked-down process has
    no use for: nothing can be done with them.
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
    """Put /dev/null where descriptor 0, 1 or 2 is closed, before anything else is opened there."""
    for number, name in enumerate(STREAMS):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            # Python found it closed; print() would take another stream for it.
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8"))
