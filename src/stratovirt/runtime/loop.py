"""The event loop of the main thread: file descriptors, timers, signals, calls from threads."""

from __future__ import annotations

import os
import select
import signal
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Callback = Callable[[], None]
    ReadyCallback = Callable[[int], None]

READABLE = select.EPOLLIN
WRITABLE = select.EPOLLOUT
HANGUP = select.EPOLLHUP | select.EPOLLERR


class Timer:
    """One pending call; `cancel` forgets it."""

    __slots__ = ("callback", "deadline_ns")

    def __init__(self, deadline_ns: int, callback: Callback) -> None:
        self.deadline_ns = deadline_ns
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        """Never run it."""
        self.callback = None


class Loop:
    """Single-threaded; only `call_soon` may be used from other threads.

    `lock` is held around every callback: Python device code runs under it, whichever thread it
    is in.
    """

    def __init__(self, lock: object) -> None:
        self._lock = lock
        self._epoll = select.epoll(flags=select.EPOLL_CLOEXEC)
        self._ready: dict[int, ReadyCallback] = {}
        self._timers: list[Timer] = []
        self._calls: list[Callback] = []
        self._stopped = False
        self._wakeup = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.watch(self._wakeup, READABLE, self._woken)
        self._signals: dict[int, Callback] = {}
        self._signal_pipe: tuple[int, int] | None = None

    def watch(self, fd: int, events: int, callback: ReadyCallback) -> None:
        """Call `callback(events)` whenever one of `events` (or a hang-up) is there."""
        if fd in self._ready:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._ready[fd] = callback

    def unwatch(self, fd: int) -> None:
        """Stop watching; call before closing the descriptor."""
        if self._ready.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def call_soon(self, callback: Callback) -> None:
        """Run `callback` in the loop's thread; safe from any thread."""
        self._calls.append(callback)
        os.eventfd_write(self._wakeup, 1)

    def call_at(self, deadline_ns: int, callback: Callback) -> Timer:
        """Run `callback` once time.monotonic_ns() has reached `deadline_ns`."""
        timer = Timer(deadline_ns, callback)
        self._timers.append(timer)
        self._timers.sort(key=lambda entry: entry.deadline_ns)
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
        """Serve callbacks until `stop`, or until `until` says True."""
        while not self._stopped and not until():
            events = self._epoll.poll(self._timeout_s())
            with self._lock:  # type: ignore[attr-defined]
                self._run_timers()
                for fd, mask in events:
                    callback = self._ready.get(fd)
                    if callback is not None and not self._stopped:
                        callback(mask)

    def close(self) -> None:
        """Give back the loop's own descriptors."""
        if self._signal_pipe is not None:
            signal.set_wakeup_fd(-1)
            for fd in self._signal_pipe:
                os.close(fd)
        os.close(self._wakeup)
        self._epoll.close()

    def _timeout_s(self) -> float | None:
        while self._timers and self._timers[0].callback is None:
            self._timers.pop(0)
        if not self._timers:
            return None
        return max(0.0, (self._timers[0].deadline_ns - time.monotonic_ns()) / 1e9)

    def _run_timers(self) -> None:
        now = time.monotonic_ns()
        while self._timers and self._timers[0].deadline_ns <= now:
            callback = self._timers.pop(0).callback
            if callback is not None:
                callback()

    def _woken(self, _events: int) -> None:
        os.eventfd_read(self._wakeup)
        calls, self._calls = self._calls, []
        for callback in calls:
            callback()

    def _signalled(self, _events: int) -> None:
        assert self._signal_pipe is not None
        for number in os.read(self._signal_pipe[0], 64):
            callback = self._signals.get(number)
            if callback is not None:
                callback()
