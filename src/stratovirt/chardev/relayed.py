"""A monitor whose clients somebody else receives, and hands on as connected sockets."""

from __future__ import annotations

import socket

from stratovirt.chardev.peer import PeerChardev
from stratovirt.runtime.loop import Loop


class RelayedChardev(PeerChardev):
    """One client at a time; the next comes when it has left."""

    carries_descriptors = True

    def __init__(self, loop: Loop, label: str, description: str, waits: bool) -> None:
        super().__init__(loop, label)
        self.description, self.waits = description, waits

    def receive(self, fd: int) -> None:
        """Here is a client."""
        if self._peer is not None:
            # What the last one had to say is lost with it.
            self._hung_up()
        self._use(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=fd))
