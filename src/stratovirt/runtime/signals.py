"""Signals that end a machine: before its loop hears them they interrupt whatever the start does."""

from __future__ import annotations

import signal
import sys
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_came = False


class SignalledError(BaseException):
    """A signal came before the machine ran; nothing but the end of the process catches it."""


def interrupt_start() -> None:
    """From now on one of these signals raises SignalledError, once, wherever the process is."""
    sys.unraisablehook = _dropped
    for number in ENDING:
        signal.signal(number, _interrupt)


def _dropped(what: sys.UnraisableHookArgs) -> None:
    # `was_lost` makes up for it.
    if not isinstance(what.exc_value, SignalledError):
        sys.__unraisablehook__(what)


def was_lost() -> bool:
    """Whether a signal came and its exception got lost: Python drops those of its own callbacks.

    For instance one that frees the lock of a module that was imported.
    """
    return _came


def _interrupt(number: int, _frame: FrameType | None) -> None:
    global _came
    _came = True
    # What the end still has to do is not interrupted again.
    ignore()
    raise SignalledError(signal.Signals(number).name)


def ignore() -> None:
    """Heed none of them."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def held() -> Iterator[None]:
    """Let signals wait while something is made, and while it is noted that it must be removed."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
