"""Opens the queues of a tap by its name, in the machine's process or in its broker."""

from __future__ import annotations

import errno
import os

from stratovirt._native import tap as native
from stratovirt.errors import StratovirtError
from stratovirt.host.request import Opened, Request, detail

TUN_DEVICE = "/dev/net/tun"
INTERFACES = "/sys/class/net"
IS_TAP = 2
"""IFF_TAP, a bit of tun_flags in sysfs."""


class TapError(StratovirtError):
    """The tap is missing or cannot be used; the text names the -netdev."""


class TapRequest(Request["list[int]"], kind="tap"):
    """Open `queues` queues of the tap `name`; their descriptors."""

    name: str
    queues: int
    source: str = detail(default="")

    def open(self, _machine: str = "self", /) -> Opened:
        """Open the queues; raises TapError."""
        return Opened(open_queues(self.name, self.queues, self.source))

    def receive(self, opened: Opened) -> list[int]:
        """The descriptors, one a queue."""
        return opened.fds


def open_queues(name: str, queues: int, source: str) -> list[int]:
    """Open `queues` queues of the tap `name`; returns their descriptors. Raises TapError."""
    fds: list[int] = []
    try:
        for _ in range(queues):
            fds.append(_open_queue(name, queues, source))
    except TapError:
        for fd in fds:
            os.close(fd)
        raise
    return fds


def _open_queue(name: str, queues: int, source: str) -> int:
    try:
        fd = os.open(TUN_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise TapError(f"{source}: cannot open {TUN_DEVICE}: {error.strerror}") from error
    try:
        native.attach(fd, name, queues > 1)
    except OSError as error:
        os.close(fd)
        raise TapError(
            f"{source},ifname={name}: cannot use it: {_reason(error, name, queues)}"
        ) from error
    return fd


def _reason(error: OSError, name: str, queues: int) -> str:
    if error.errno == errno.EINVAL:
        return _wrong_kind(name, queues)
    if error.errno == errno.EBUSY:
        return "it is in use by another process"
    return str(error.strerror)


def _wrong_kind(name: str, queues: int) -> str:
    """The reason why an existing interface cannot be attached, for the error text."""
    try:
        with open(f"{INTERFACES}/{name}/tun_flags", encoding="ascii") as file:
            flags = int(file.read(), 16)
    except OSError:
        return "it is no tap"
    if not flags & IS_TAP:
        return "it is a tun, which carries no Ethernet frames, and no tap"
    return f"it was made {'without' if queues > 1 else 'with'} multi_queue"
