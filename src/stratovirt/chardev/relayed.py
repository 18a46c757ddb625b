"""A monitor whose clients somebody else receives, and hands on as connected sockets."""

from __future__ import annotations

import socket

from stratovirt.chardev.peer import PeerChardev
from stratovirt.runtime.loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class RelayedChardev(PeerChardev):
    """One client at a time; the next comes when it has left.

    Whoever receives the clients counts their requests; `on_answered` hears which was answered.
    """

    carries_descriptors = True

    def __init__(self, loop: Loop, label: str, description: str, waits: bool) -> None:
        super().__init__(loop, label)
        self.description, self.waits = description, waits
        self.on_answered: Callable[[int, str, bool], None] = lambda _number, _command, _ok: None
        self._requests = 0

    def answered(self, command: str, accepted: bool) -> None:
        """Tell who counts along."""
        self._requests += 1
        self.on_answered(self._requests, command, accepted)

    def receive(self, fd: int, requests: int) -> None:
        """Here is a client; before it there were so many requests."""
        if self._peer is not None:
            # What the last one had to say is lost with it.
            self._hung_up()
        self._requests = requests
        self._use(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=fd))
