"""The clock that devices read and set timers on: the host's, or a virtual one for board tests."""

from __future__ import annotations

import time

from stratovirt.runtime.faults import report_bug
from stratovirt.runtime.loop import Loop, Timer, run_guarded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stratovirt._native.board_time import BoardTime
    from stratovirt.runtime.loop import Failed


class MonotonicClock:
    """The host's monotonic clock, in ns."""

    native: BoardTime | None = None
    """The same clock for native engines; None means the host's monotonic clock."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def now_ns(self) -> int:
        """Nanoseconds since some fixed point."""
        return time.monotonic_ns()

    def call_at(
        self, deadline_ns: int, callback: Callable[[], None], failed: Failed = report_bug
    ) -> Timer:
        """Run `callback` at `deadline_ns`; `failed` is called with its exception."""
        return self._loop.call_at(deadline_ns, callback, failed)


class VirtualClock:
    """A clock that starts at 0 and advances only by `move_to`."""

    def __init__(self) -> None:
        from stratovirt._native.board_time import BoardTime

        self.native = BoardTime(by_hand=True)
        self._now_ns = 0
        self._timers: list[Timer] = []

    def now_ns(self) -> int:
        """Nanoseconds since the start, the sum of all advances."""
        return self._now_ns

    def call_at(
        self, deadline_ns: int, callback: Callable[[], None], failed: Failed = report_bug
    ) -> Timer:
        """Run `callback` when the clock is moved to or past `deadline_ns`."""
        timer = Timer(deadline_ns, callback, failed)
        self._timers.append(timer)
        return timer

    def next_deadline_ns(self) -> int | None:
        """Deadline of the next timer, or None."""
        return min((t.deadline_ns for t in self._timers if t.callback is not None), default=None)

    def move_to(self, now_ns: int) -> None:
        """Set the time (never back) and run the timers that are due, in order."""
        while (due := self.next_deadline_ns()) is not None and due <= now_ns:
            timer = next(t for t in self._timers if t.callback is not None and t.deadline_ns == due)
            self._timers.remove(timer)
            self._set(due)
            if timer.callback is not None:
                run_guarded(timer.callback, timer.failed)
        self._timers = [t for t in self._timers if t.callback is not None]
        self._set(now_ns)

    def _set(self, now_ns: int) -> None:
        self._now_ns = max(self._now_ns, now_ns)
        self.native.move_to(self._now_ns)


Clock = MonotonicClock | VirtualClock
