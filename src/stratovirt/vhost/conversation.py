"""A queue of messages to a vhost-user peer, sent by a thread that waits for the answers."""

from __future__ import annotations

import _thread

from stratovirt.runtime.faults import reason
from stratovirt.runtime.loop import Loop
from stratovirt.runtime.threads import start_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stratovirt.vhost.user import VhostUser


class Conversation:
    """Runs parts, functions that exchange messages with `peer`, in order, until one fails.

    `ended` is called in the loop whenever no part is left; `failure` is the text of the error.
    """

    def __init__(self, peer: VhostUser, loop: Loop, ended: Callable[[], None]) -> None:
        self.peer, self._loop, self._ended = peer, loop, ended
        self._lock = _thread.allocate_lock()
        self._parts: list[Callable[[], None]] = []
        self._going: _thread.LockType | None = None
        """Held by the sending thread while it runs; None when there is none."""
        self.failure: str | None = None

    @property
    def is_going(self) -> bool:
        """Whether the sending thread runs."""
        return self._going is not None

    def say(self, part: Callable[[], None]) -> None:
        """Append a part; returns at once. Ignored after a failure."""
        with self._lock:
            if self.failure is not None:
                return
            self._parts.append(part)
            if self._going is None:
                self._going = _thread.allocate_lock()
                self._going.acquire()
                start_thread("vhost-user", self._talk, self._going)

    def settle(self) -> None:
        """Wait until all parts have run; each part has its own deadline."""
        going = self._going
        if going is not None:
            with going:
                pass

    def _talk(self, going: _thread.LockType) -> None:
        while (part := self._next()) is not None:
            try:
                part()
            except Exception as error:
                with self._lock:
                    self.failure = reason(error)
                    self._parts.clear()
        self._loop.call_soon(self._ended)
        going.release()

    def _next(self) -> Callable[[], None] | None:
        with self._lock:
            if self._parts:
                return self._parts.pop(0)
            self._going = None
            return None
