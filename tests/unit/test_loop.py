"""The event loop: whose an exception is, which events count, timers of other threads."""

from __future__ import annotations

import _thread
import os
import time
from collections.abc import Iterator

import pytest

from stratovirt.runtime.eventfds import forget_signal, new_eventfd
from stratovirt.runtime.loop import READABLE, Loop


@pytest.fixture
def lock() -> _thread.RLock:
    return _thread.RLock()


@pytest.fixture
def loop(lock: _thread.RLock) -> Iterator[Loop]:
    loop = Loop(lock)
    yield loop
    loop.close()


@pytest.fixture
def fds() -> Iterator[list[int]]:
    fds = [new_eventfd(), new_eventfd()]
    yield fds
    for fd in fds:
        os.close(fd)


def fail(_events: int = 0) -> None:
    raise OSError(77, "the host's fault")


def soon(seconds: float) -> int:
    return time.monotonic_ns() + int(seconds * 1e9)


def test_an_exception_goes_to_its_owner_and_the_loop_goes_on(loop: Loop, fds: list[int]) -> None:
    told: list[Exception] = []
    loop.watch(fds[0], READABLE, fail, told.append)
    os.eventfd_write(fds[0], 1)
    loop.call_soon(fail, told.append)
    loop.call_at(soon(0.01), fail, told.append)
    loop.call_at(soon(0.1), loop.stop)
    loop.run()
    # The descriptor is readable still, and its callback was not called again.
    assert [error.args[0] for error in told] == [77, 77, 77]


def test_an_exception_without_an_owner_ends_nothing(loop: Loop, fds: list[int]) -> None:
    loop.watch(fds[0], READABLE, fail)
    os.eventfd_write(fds[0], 1)
    loop.call_soon(fail, lambda _error: fail())
    loop.call_at(soon(0.05), loop.stop)
    loop.run()


def test_an_event_is_for_the_registration_that_was_polled(loop: Loop, fds: list[int]) -> None:
    heard: list[str] = []

    def first(_events: int) -> None:
        heard.append("first")
        for fd in fds:
            forget_signal(fd)
            loop.unwatch(fd)
            loop.watch(fd, READABLE, lambda _events: heard.append("stale"))

    for fd in fds:
        loop.watch(fd, READABLE, first)
        os.eventfd_write(fd, 1)
    loop.call_at(soon(0.05), loop.stop)
    loop.run()
    assert heard == ["first"]


def test_a_timer_of_another_thread_wakes_the_loop(loop: Loop, lock: _thread.RLock) -> None:
    due: list[int] = []

    def another_thread() -> None:
        time.sleep(0.05)
        with lock:
            loop.call_at(soon(0.05), lambda: due.append(time.monotonic_ns()))

    loop.call_at(soon(3), loop.stop)
    began = time.monotonic_ns()
    _thread.start_new_thread(another_thread, ())
    loop.run(until=lambda: bool(due))
    assert due[0] - began < 2e9


def test_calls_of_many_threads_are_all_made(loop: Loop) -> None:
    made: list[int] = []

    def call(first: int) -> None:
        for number in range(first, first + 500):
            loop.call_soon(lambda number=number: made.append(number))  # type: ignore[misc]

    for first in (0, 500, 1000):
        _thread.start_new_thread(call, (first,))
    loop.call_at(soon(10), loop.stop)
    loop.run(until=lambda: len(made) == 1500)
    assert sorted(made) == list(range(1500))
