"""Opens the kernel's vhost-net, in the machine's process or in its broker."""

from __future__ import annotations

import os

from stratovirt.host.request import Opened, Request

VHOST_NET = "/dev/vhost-net"


class VhostNetRequest(Request["int"], kind="vhost-net"):
    """Open vhost-net for one queue pair; its descriptor."""

    def open(self, _machine: str = "self", /) -> Opened:
        """Open the device; raises OSError."""
        return Opened([os.open(VHOST_NET, os.O_RDWR | os.O_CLOEXEC)])

    def receive(self, opened: Opened) -> int:
        """The descriptor."""
        return opened.fds[0]
