"""Deferred answers: a command that waits for another process, in a separate thread."""

from __future__ import annotations

from stratovirt.errors import StratovirtError
from stratovirt.runtime.threads import start_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from stratovirt.runtime.loop import Loop


class Later:
    """A deferred answer, which a command returns in place of its answer.

    `wait` runs in a thread of its own, without the machine's lock; `finish` makes the answer, in
    the loop; its argument is a function that returns or raises the outcome of `wait`.
    """

    def __init__(
        self, wait: Callable[[], Any], finish: Callable[[Callable[[], Any]], object]
    ) -> None:
        self._wait, self._finish = wait, finish

    def begin(self, loop: Loop, done: Callable[[Callable[[], object]], None]) -> None:
        """Start waiting; `done` is called in the loop with a function that makes the answer."""
        try:
            start_thread("qmp-wait", self._run, loop, done)
        except RuntimeError as error:
            # The command fails as if the wait had, so that it undoes what it has begun.
            failure = StratovirtError(f"the host gives no thread to wait in: {error}")
            self._end(loop, done, None, failure)

    def _run(self, loop: Loop, done: Callable[[Callable[[], object]], None]) -> None:
        found: Any = None
        failure: Exception | None = None
        try:
            found = self._wait()
        except Exception as error:
            failure = error
        self._end(loop, done, found, failure)

    def _end(
        self,
        loop: Loop,
        done: Callable[[Callable[[], object]], None],
        found: Any,
        failure: Exception | None,
    ) -> None:
        def outcome() -> Any:
            if failure is not None:
                raise failure
            return found

        loop.call_soon(lambda: done(lambda: self._finish(outcome)))
