"""Network back ends: -netdev."""

from __future__ import annotations

import os

from stratovirt.config.kinds import (
    DescriptorList,
    Identifier,
    Integer,
    Kind,
    OnOff,
    Reference,
    Text,
)
from stratovirt.config.options import Family, Options, opt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from stratovirt.host.request import Named, Request

MAX_QUEUES = 16
INTERFACE_NAME_LONGEST = 15
"""IFNAMSIZ less its final NUL."""


class InterfaceName(Text):
    """The name of a network interface of the host, as the kernel takes it."""

    def __init__(self) -> None:
        super().__init__("the name of an interface", INTERFACE_NAME_LONGEST)

    def parse(self, text: str) -> str:
        """The name as written."""
        # Of "tap%d" the kernel would make a new name.
        text = super().parse(text)
        if len(os.fsencode(text)) > INTERFACE_NAME_LONGEST:
            raise ValueError(f"at most {INTERFACE_NAME_LONGEST} bytes")
        if text in (".", "..") or set(text) & set("/:%") or text.split() != [text]:
            raise ValueError(f"{self.allowed}, which has no '/', ':', '%' or blank")
        return text


class NoScript(Kind["str"]):
    """A script for a tap, which none has."""

    allowed = "no or empty: the interface is the host's to set up"

    def parse(self, text: str) -> str:
        """The empty text; raises ValueError for the name of a script."""
        if text not in ("", "no"):
            raise ValueError(self.allowed)
        return ""


class Tap(Options, flag="-netdev tap"):
    """A tap interface of the host."""

    id: str = opt(Identifier(), help="name that the device refers to")
    ifname: str | None = opt(InterfaceName(), default=None, help="interface")
    fd: tuple[str, ...] = opt(DescriptorList(), default=(), help="open tap descriptor")
    fds: tuple[str, ...] = opt(DescriptorList(), default=(), help="open tap descriptors, A:B:...")
    queues: int | None = opt(Integer(1, MAX_QUEUES), default=None, help="queue pairs")
    vhost: bool = opt(OnOff(), default=False, help="let the kernel's vhost-net move the data")
    vhostfd: tuple[str, ...] = opt(
        DescriptorList(), default=(), help="open /dev/vhost-net descriptor"
    )
    vhostfds: tuple[str, ...] = opt(
        DescriptorList(), default=(), help="open /dev/vhost-net descriptors, A:B:..."
    )
    script: str = opt(NoScript(), default="", help="must be no or empty")
    downscript: str = opt(NoScript(), default="", help="must be no or empty")

    def check(self) -> None:
        """There is an interface, named or open, and a vhost descriptor has a vhost."""
        if self.fd and self.fds:
            raise ValueError("fd and fds contradict each other; give one")
        if not (self.ifname or self.fd or self.fds):
            raise ValueError("ifname, fd or fds is missing")
        if len(self.fd) > 1:
            raise ValueError("fd is one descriptor; give several with fds")
        if self.vhostfd and self.vhostfds:
            raise ValueError("vhostfd and vhostfds contradict each other; give one")
        if (self.vhostfd or self.vhostfds) and not self.vhost:
            raise ValueError("vhostfd and vhostfds need vhost=on")

    def names(self) -> Named:
        """The tap by its name, and vhost-net for each queue whose descriptor is not given."""
        from stratovirt.host.request import Named

        requests: list[Request[Any]] = []
        queues = len(self.fd or self.fds)
        if self.ifname is not None:
            from stratovirt.net.tap_queues import TapRequest

            queues = self.queues or 1
            requests.append(TapRequest(name=self.ifname, queues=queues))
        if self.vhost and not (self.vhostfd or self.vhostfds):
            from stratovirt.net.vhost_net import VhostNetRequest

            requests += [VhostNetRequest()] * queues
        return Named(requests)


class VhostUser(Options, flag="-netdev vhost-user"):
    """A network back end in another process."""

    id: str = opt(Identifier(), help="name that the device refers to")
    chardev: str = opt(Reference("-chardev"), help="id of the -chardev socket to it")
    queues: int = opt(Integer(1, MAX_QUEUES), default=1, help="queue pairs")


NETDEVS = Family(
    "-netdev", key="type", noun="back end", variants={"tap": Tap, "vhost-user": VhostUser}
)
