"""What is said to a vhost-user peer, by a thread that waits for the answers."""

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
    """What is said to `peer`, part by part; once one has failed the rest is left unsaid.

    `ended` is called in the loop whenever all has been said; `failure` is what failed, if so.
    """

    def __init__(self, peer: VhostUser, loop: Loop, ended: Callable[[], None]) -> None:
        self.peer, self._loop, self._ended = peer, loop, ended
        self._lock = _thread.allocate_lock()
        self._parts: list[Callable[[], None]] = []
        self._going: _thread.LockType | None = None
        """Held while a thread talks."""
        self.failure: str | None = None

    @property
    def is_going(self) -> bool:
        """Whether something is being said."""
        return self._going is not None

    def say(self, part: Callable[[], None]) -> None:
        """Say this next; returns at once."""
        with self._lock:
            if self.failure is not None:
                return
            self._parts.append(part)
            if self._going is None:
                self._going = _thread.allocate_lock()
                self._going.acquire()
                start_thread("vhost-user", self._talk, self._going)

    def settle(self) -> None:
        """Return when nothing is being said; each part has its own deadline."""
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
