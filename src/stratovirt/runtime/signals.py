"""Signals that end a machine: before the event loop handles them, they interrupt the start."""

from __future__ import annotations

import signal
import sys
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class SignalledError(BaseException):
    """A signal arrived before the machine ran; only the end of the process catches it."""


class StartSignals:
    """The signals of ENDING during the start, before the loop handles them.

    `was_lost` says whether a signal arrived: its exception may be lost in a callback of Python's
    own, for example in the one that frees the lock of an imported module.
    """

    def __init__(self) -> None:
        self.was_lost = False

    def interrupt_start(self) -> None:
        """From now on one of ENDING raises SignalledError, once, in the main thread."""
        sys.unraisablehook = _dropped
        for number in ENDING:
            signal.signal(number, self._interrupt)

    def _interrupt(self, number: int, _frame: FrameType | None) -> None:
        self.was_lost = True
        # Further signals must not interrupt the clean-up.
        ignore()
        raise SignalledError(signal.Signals(number).name)


def _dropped(what: sys.UnraisableHookArgs) -> None:
    # `was_lost` reports the dropped SignalledError.
    if not isinstance(what.exc_value, SignalledError):
        sys.__unraisablehook__(what)


def ignore() -> None:
    """Ignore the signals of ENDING."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def held() -> Iterator[None]:
    """Block the signals while a resource is created and its removal is registered."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
