"""Eventfds: signals between devices, engines and the kernel."""

from __future__ import annotations

import os
import select


def new_eventfd() -> int:
    """Create an eventfd, non-blocking and close-on-exec."""
    return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)


def new_eventfds(count: int) -> list[int]:
    """Create `count` eventfds, or none: raises OSError."""
    fds: list[int] = []
    try:
        while len(fds) < count:
            fds.append(new_eventfd())
    except OSError:
        for fd in fds:
            os.close(fd)
        raise
    return fds


def has_signal(fd: int) -> bool:
    """Whether the eventfd is signalled and nobody has read it yet."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def take_signal(fd: int) -> bool:
    """Reset the eventfd's counter; whether it was signalled.

    An unsignalled eventfd is no error: another thread may have read it since the poll.
    """
    try:
        os.eventfd_read(fd)
    except BlockingIOError:
        return False
    return True


def forget_signal(fd: int) -> None:
    """Reset the eventfd's counter, signalled or not."""
    take_signal(fd)
