"""Base of chardevs on a socket: one peer, and the file descriptors it sends (SCM_RIGHTS)."""

from __future__ import annotations

import os
import socket

from stratovirt.chardev.backend import Chardev
from stratovirt.runtime.log import Log
from stratovirt.runtime.loop import Loop
from stratovirt.runtime.sockets import LostDescriptorsError, receive_descriptors

log = Log(__name__)

MOST_DESCRIPTORS = 16
"""Most descriptors in one message; of a message with more, all are dropped."""


class PeerChardev(Chardev):
    """A chardev with one connected socket at a time, or none."""

    chunk = 1 << 16
    carries_descriptors = False
    """Whether the peer's socket can carry file descriptors."""

    def __init__(self, loop: Loop, label: str) -> None:
        super().__init__(loop, label)
        self._peer: socket.socket | None = None

    def close(self) -> None:
        """Close the connection without calling `on_disconnected`."""
        super().close()
        if self._peer is not None:
            self._peer.close()
            self._peer = None
        self._forget_descriptors()

    def _use(self, peer: socket.socket) -> None:
        peer.setblocking(False)
        self._peer = peer
        self._attach(peer.fileno(), peer.fileno())
        self.on_connected()

    def _hung_up(self) -> None:
        self._detach()
        if self._peer is None:
            return
        self._peer.close()
        self._peer = None
        self._forget_descriptors()
        self.on_disconnected()
        self._await_next()

    def _await_next(self) -> None:
        """The peer has disconnected; a back end overrides this to get the next."""

    def _read(self, size: int) -> bytes:
        if not self.takes_descriptors or not self.carries_descriptors:
            return super()._read(size)
        assert self._peer is not None
        try:
            received, descriptors = receive_descriptors(self._peer, size, MOST_DESCRIPTORS)
        except LostDescriptorsError as error:
            log.warn(f"chardev {self.label}: {error.strerror}")
            received, descriptors = error.content, []
        if descriptors:
            # Unused descriptors of an earlier message are closed.
            self._forget_descriptors()
            self.descriptors = descriptors
        return received

    def _forget_descriptors(self) -> None:
        for fd in self.descriptors:
            os.close(fd)
        self.descriptors = []
