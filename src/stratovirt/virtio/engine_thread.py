"""A native engine and the thread it runs in."""

from __future__ import annotations

import _thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Engine(Protocol):
        """Serves queues without the GIL."""

        def run(self) -> None:
            """Serve until stopped or broken."""

        def request_stop(self) -> None:
            """Make `run` return once what was taken is complete."""


class EngineThread:
    """Runs `engine` from now on, until `stop`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._ended = _thread.allocate_lock()
        self._ended.acquire()
        _thread.start_new_thread(self._serve, ())

    def stop(self) -> None:
        """Stop; when this returns nothing is in flight."""
        self._engine.request_stop()
        self._ended.acquire()
        self._ended.release()

    def _serve(self) -> None:
        try:
            self._engine.run()
        finally:
            self._ended.release()
