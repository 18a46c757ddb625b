"""The host's end of a network card: a tap, and the kernel's vhost-net where it is wanted."""

from __future__ import annotations

import errno
import os

from stratovirt._native.vhost import VhostDevice
from stratovirt.config import net as config
from stratovirt.errors import StratovirtError
from stratovirt.net.tap import Tap
from stratovirt.runtime.descriptors import DescriptorError, take_descriptor

VHOST_NET = "/dev/vhost-net"


class NetBackEnd:
    """An open tap; `vhosts` has a vhost-net device for each of its queues, or is empty."""

    def __init__(
        self, netdev: config.Tap, *, vhost: bool = False, vhostfds: tuple[str, ...] = ()
    ) -> None:
        self.netdev = netdev
        self._source = f"{netdev.flag},id={netdev.id}"
        given = netdev.vhostfds or netdev.vhostfd or vhostfds
        # Descriptors are taken before anything is checked: then they are closed whatever is wrong.
        self.vhosts = self._take_vhosts(given)
        try:
            self.tap = Tap(netdev)
        except Exception:
            self._close_vhosts()
            raise
        try:
            if given:
                self._check_given(netdev.vhost or vhost)
            if netdev.vhost or vhost:
                self._own_vhosts()
        except Exception:
            self.close()
            raise

    @property
    def pairs(self) -> int:
        """Queue pairs it can serve."""
        return len(self.tap.fds)

    def close(self) -> None:
        """Give tap and vhost devices back."""
        self._close_vhosts()
        self.tap.close()

    def _close_vhosts(self) -> None:
        for vhost in self.vhosts:
            vhost.close()
        self.vhosts.clear()

    def _take_vhosts(self, names: tuple[str, ...]) -> list[VhostDevice]:
        try:
            return [VhostDevice(take_descriptor(name)) for name in names]
        except DescriptorError as error:
            raise StratovirtError(f"{self._source},vhostfd={':'.join(names)}: {error}") from error

    def _check_given(self, is_wanted: bool) -> None:
        if not is_wanted:
            raise StratovirtError(f"{self._source}: vhost descriptors need vhost=on")
        count = len(self.tap.fds)
        if len(self.vhosts) != count:
            raise StratovirtError(f"{self._source}: {count} queues need as many vhost descriptors")

    def _own_vhosts(self) -> None:
        try:
            while len(self.vhosts) < len(self.tap.fds):
                self.vhosts.append(VhostDevice(_open_vhost_net()))
            for vhost in self.vhosts:
                vhost.set_owner()
        except OSError as error:
            hint = "; load the module vhost_net" if error.errno == errno.ENOENT else ""
            raise StratovirtError(
                f"{self._source}: cannot use vhost-net: {error.strerror}{hint}"
            ) from error


def _open_vhost_net() -> int:
    return os.open(VHOST_NET, os.O_RDWR | os.O_CLOEXEC)
