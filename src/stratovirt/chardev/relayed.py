"""A monitor's chardev whose clients another process accepts and passes as sockets."""

from __future__ import annotations

import socket

from stratovirt.chardev.peer import PeerChardev
from stratovirt.runtime.loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class RelayedChardev(PeerChardev):
    """One client at a time; a new one replaces the last.

    The accepting process counts requests; `on_answered` gets each one's number when it is answered.
    """

    carries_descriptors = True

    def __init__(self, loop: Loop, label: str, description: str, waits: bool) -> None:
        super().__init__(loop, label)
        self.description, self.waits = description, waits
        self.on_answered: Callable[[int, str, bool], None] = lambda _number, _command, _ok: None
        self._requests = 0

    def answered(self, command: str, accepted: bool) -> None:
        """Report an answered request with its number to `on_answered`."""
        self._requests += 1
        self.on_answered(self._requests, command, accepted)

    def receive(self, fd: int, requests: int) -> None:
        """Serve the client on socket `fd`; `requests` is the number of requests before it."""
        if self._peer is not None:
            # Unread input of the last client is dropped.
            self._hung_up()
        self._requests = requests
        self._use(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=fd))
