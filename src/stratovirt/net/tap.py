"""A tap interface: opened by name or by given descriptors, one for each queue pair."""

from __future__ import annotations

import os

from stratovirt._native import tap as native
from stratovirt.config import net as config
from stratovirt.net.tap_queues import TapError, TapRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.host.access import HostAccess

BASE_OFFLOADS = native.OFFLOAD_CSUM | native.OFFLOAD_TSO4 | native.OFFLOAD_TSO6 | native.OFFLOAD_ECN


class Tap:
    """The open queues of one tap; `fds` has one for each queue pair.

    `given` are the descriptors that the options name; the tap owns them, and closes them also when
    it raises TapError.  `has_ufo` is True if the kernel supports UDP fragmentation offload.
    """

    def __init__(self, options: config.Tap, host: HostAccess, given: list[int]) -> None:
        self._source = f"{options.flag},id={options.id}"
        self.fds = given
        try:
            # The guidebook: a name takes precedence over descriptors.
            if options.ifname is not None:
                self.close()
                queues = options.queues or 1
                self.fds = host.open(
                    TapRequest(name=options.ifname, queues=queues, source=self._source)
                )
            else:
                self._check_given(options.queues)
            self.has_ufo = self._prepare()
        except Exception:
            self.close()
            raise
        self._enabled = len(self.fds)

    def close(self) -> None:
        """Close the queues; a persistent tap stays on the host."""
        for fd in self.fds:
            os.close(fd)
        self.fds.clear()

    def set_offload(self, flags: int) -> None:
        """Set the guest's receive offloads: OFFLOAD_* bits of the native module; raises OSError."""
        for fd in self.fds:
            native.set_offload(fd, flags)

    def enable(self, pairs: int) -> None:
        """Enable the first `pairs` queues for the kernel's packet steering; disable the others."""
        if len(self.fds) == 1:
            return
        for index in range(pairs, self._enabled):
            native.enable_queue(self.fds[index], False)
        for index in range(self._enabled, pairs):
            native.enable_queue(self.fds[index], True)
        self._enabled = pairs

    def _check_given(self, queues: int | None) -> None:
        count = len(self.fds)
        if queues is not None and queues != count:
            raise TapError(f"{self._source}: queues={queues}, but {count} descriptors given")
        for fd in self.fds:
            os.set_blocking(fd, False)

    def _prepare(self) -> bool:
        try:
            for fd in self.fds:
                if not native.is_tap(fd):
                    raise TapError(f"{self._source}: not a tap: a tun carries no Ethernet frames")
                if not native.carries_header(fd):
                    raise TapError(f"{self._source}: the tap was opened without IFF_VNET_HDR")
                native.set_header_size(fd, native.HEADER_BYTES)
        except OSError as error:
            raise TapError(f"{self._source}: not a tap: {error.strerror}") from error
        try:
            native.set_offload(self.fds[0], BASE_OFFLOADS | native.OFFLOAD_UFO)
        except OSError:
            return False
        finally:
            native.set_offload(self.fds[0], 0)
        return True
