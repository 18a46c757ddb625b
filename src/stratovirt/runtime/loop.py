"""The event loop of the main thread: file descriptors, timers, signals, calls from threads."""

from __future__ import annotations

import os
import select
import signal
import time

from stratovirt.runtime.eventfds import forget_signal
from stratovirt.runtime.faults import report_bug

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Callback = Callable[[], None]
    ReadyCallback = Callable[[int], None]
    Failed = Callable[[Exception], None]

READABLE = select.EPOLLIN
WRITABLE = select.EPOLLOUT
HANGUP = select.EPOLLHUP | select.EPOLLERR


class Timer:
    """One pending call; `cancel` drops it."""

    __slots__ = ("callback", "deadline_ns", "failed")

    def __init__(self, deadline_ns: int, callback: Callback, failed: Failed = report_bug) -> None:
        self.deadline_ns = deadline_ns
        self.callback: Callback | None = callback
        self.failed = failed

    def cancel(self) -> None:
        """Drop the call."""
        self.callback = None


class Watch:
    """One registration of a descriptor.

    An event belongs to the registration that was polled: the loop polls without the lock, so
    another thread or an earlier callback of the same turn may have replaced it, and the new
    callback must not get a stale event.
    """

    __slots__ = ("callback", "events", "failed", "since")

    def __init__(self, events: int, callback: ReadyCallback, failed: Failed, since: int) -> None:
        self.events, self.callback, self.failed, self.since = events, callback, failed, since


class Loop:
    """Runs callbacks in the thread that calls `run`; everything else is safe from any thread
    that holds `lock`, and `call_soon` from any thread at all.

    `lock` is held around every callback: Python device code runs under it, whichever thread it
    is in.  An exception of a callback is passed to the `failed` that was registered with it; the
    default `failed` logs it as a bug of this program.  The loop goes on in both cases.
    """

    def __init__(self, lock: object) -> None:
        self._lock = lock
        self._epoll = select.epoll(flags=select.EPOLL_CLOEXEC)
        self._ready: dict[int, Watch] = {}
        self._timers: list[Timer] = []
        self._calls: list[tuple[Callback, Failed]] = []
        self._stopped = False
        self._turn = 0
        """Number of polls; a registration made since the poll gets none of its events."""
        self._sleeps_until_ns: int | None = None
        self._wakeup = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.watch(self._wakeup, READABLE, self._woken)
        self._signals: dict[int, Callback] = {}
        self._signal_pipe: tuple[int, int] | None = None

    def watch(
        self, fd: int, events: int, callback: ReadyCallback, failed: Failed = report_bug
    ) -> None:
        """Call `callback(events)` whenever one of `events` (or a hang-up) is pending.

        Raises PermissionError for a file that cannot be polled (a regular file), OSError when the
        host is out of epoll watches or memory.
        """
        known = self._ready.get(fd)
        if known is None:
            self._epoll.register(fd, events)
        elif known.events != events:
            self._epoll.modify(fd, events)
        self._ready[fd] = Watch(events, callback, failed, self._turn)

    def unwatch(self, fd: int) -> None:
        """Stop watching; call before closing the descriptor."""
        if self._ready.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def call_soon(self, callback: Callback, failed: Failed = report_bug) -> None:
        """Run `callback` in the loop's thread; safe from any thread."""
        self._calls.append((callback, failed))
        self._wake()

    def call_at(self, deadline_ns: int, callback: Callback, failed: Failed = report_bug) -> Timer:
        """Run `callback` once time.monotonic_ns() has reached `deadline_ns`."""
        timer = Timer(deadline_ns, callback, failed)
        self._timers.append(timer)
        self._timers.sort(key=lambda entry: entry.deadline_ns)
        sleeps_until = self._sleeps_until_ns
        if sleeps_until is None or deadline_ns < sleeps_until:
            # Set by another thread while the loop sleeps past the deadline: recompute the timeout.
            self._wake()
        return timer

    def on_signal(self, number: int, callback: Callback) -> None:
        """Run `callback` in the loop when the signal arrives."""
        if self._signal_pipe is None:
            self._signal_pipe = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            signal.set_wakeup_fd(self._signal_pipe[1], warn_on_full_buffer=False)
            self.watch(self._signal_pipe[0], READABLE, self._signalled)
        self._signals[number] = callback
        # The handler itself does nothing: the wakeup descriptor carries the number to the loop.
        signal.signal(number, lambda _number, _frame: None)

    def stop(self) -> None:
        """Make `run` return after the current callback."""
        self._stopped = True

    @property
    def is_stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped

    def run(self, until: Callable[[], bool] = lambda: False) -> None:
        """Serve callbacks until `stop` is called or `until` returns True."""
        while not self._stopped and not until():
            with self._lock:  # type: ignore[attr-defined]
                timeout_s = self._fall_asleep()
            events = self._epoll.poll(timeout_s)
            with self._lock:  # type: ignore[attr-defined]
                self._sleeps_until_ns = 0
                self._run_timers()
                for fd, mask in events:
                    watch = self._ready.get(fd)
                    if watch is not None and watch.since < self._turn and not self._stopped:
                        self._call(fd, watch, mask)

    def close(self) -> None:
        """Close the loop's own descriptors."""
        if self._signal_pipe is not None:
            signal.set_wakeup_fd(-1)
            for fd in self._signal_pipe:
                os.close(fd)
        wakeup, self._wakeup = self._wakeup, -1
        os.close(wakeup)
        self._epoll.close()

    def _fall_asleep(self) -> float | None:
        """Poll timeout in seconds; from now on an earlier timer wakes the loop."""
        self._turn += 1
        while self._timers and self._timers[0].callback is None:
            self._timers.pop(0)
        if not self._timers:
            self._sleeps_until_ns = None
            return None
        self._sleeps_until_ns = self._timers[0].deadline_ns
        return max(0.0, (self._sleeps_until_ns - time.monotonic_ns()) / 1e9)

    def _call(self, fd: int, watch: Watch, mask: int) -> None:
        try:
            watch.callback(mask)
        except Exception as error:
            # The unhandled event is still pending, and would recur at once.
            if self._ready.get(fd) is watch:
                self.unwatch(fd)
            _tell(watch.failed, error)

    def _run_timers(self) -> None:
        now = time.monotonic_ns()
        while self._timers and self._timers[0].deadline_ns <= now:
            timer = self._timers.pop(0)
            if timer.callback is not None:
                run_guarded(timer.callback, timer.failed)

    def _wake(self) -> None:
        if self._wakeup >= 0:
            os.eventfd_write(self._wakeup, 1)

    def _woken(self, _events: int) -> None:
        forget_signal(self._wakeup)
        # Calls added meanwhile have signalled the eventfd again.
        for _ in range(len(self._calls)):
            run_guarded(*self._calls.pop(0))

    def _signalled(self, _events: int) -> None:
        assert self._signal_pipe is not None
        try:
            numbers = os.read(self._signal_pipe[0], 64)
        except BlockingIOError:
            return
        for number in numbers:
            callback = self._signals.get(number)
            if callback is not None:
                run_guarded(callback, report_bug)


def run_guarded(callback: Callback, failed: Failed) -> None:
    """Call `callback`; its exception is passed to `failed`."""
    try:
        callback()
    except Exception as error:
        _tell(failed, error)


def _tell(failed: Failed, error: Exception) -> None:
    try:
        failed(error)
    except Exception as another:
        report_bug(another)
