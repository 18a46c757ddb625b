"""File descriptors that the process was started with: the streams, and those given by number."""

from __future__ import annotations

import os
import sys

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


def take_descriptor(name: str) -> int:
    """The descriptor written as a number, ours from now on; raises DescriptorError."""
    if not (name.isascii() and name.isdigit() and len(name) < 10) or int(name) < 3:
        raise DescriptorError("must be the number of an open file descriptor from 3 on")
    fd = int(name)
    try:
        os.set_inheritable(fd, False)
    except OSError as error:
        raise DescriptorError("no such file descriptor is open") from error
    return fd


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
