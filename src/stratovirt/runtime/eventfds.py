"""Eventfds: signals between devices, engines and the kernel."""

from __future__ import annotations

import os


def new_eventfd() -> int:
    """An eventfd that blocks nobody and no child inherits."""
    return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)


def new_eventfds(count: int) -> list[int]:
    """So many of them, or none: raises OSError."""
    fds: list[int] = []
    try:
        while len(fds) < count:
            fds.append(new_eventfd())
    except OSError:
        for fd in fds:
            os.close(fd)
        raise
    return fds


def take_signal(fd: int) -> bool:
    """Take what was signalled; whether anything was.

    Nothing is no error anywhere: between the poll and the read somebody else may have taken it.
    """
    try:
        os.eventfd_read(fd)
    except BlockingIOError:
        return False
    return True


def forget_signal(fd: int) -> None:
    """Take what was signalled, if anything was."""
    take_signal(fd)
