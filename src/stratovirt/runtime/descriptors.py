"""File descriptors that the user hands over by number."""

from __future__ import annotations

import os


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
