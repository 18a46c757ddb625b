"""The log: one line an event, with time, level and module.

The standard library's logging would exceed the process's budget of start-up time.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress

from stratovirt.errors import one_line
from stratovirt.runtime.descriptors import open_at_once

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt._native.rate_limit import RateLimit

LEVELS = ("trace", "debug", "info", "warn", "error")
DEFAULT_LEVEL = "error"
LINES_AT_ONCE = 100
"""Burst of lines from one module, then one a second: a guest can cause most log lines."""
NS_PER_SECOND = 1_000_000_000
STDERR, NOWHERE = 2, -1


class _Sink:
    fd = STDERR
    level = LEVELS.index(DEFAULT_LEVEL)
    last_error = ""


def configure(path: str | None, *, to_stderr: bool) -> None:
    """Send the log to the file at `path`, to stderr or nowhere, at STRATOVIRT_LOG_LEVEL.

    Raises OSError when the file cannot be opened, ValueError for an unknown level.
    """
    name = os.environ.get("STRATOVIRT_LOG_LEVEL", DEFAULT_LEVEL).lower()
    if name not in LEVELS:
        raise ValueError(f"STRATOVIRT_LOG_LEVEL must be one of {', '.join(LEVELS)}, not '{name}'")
    _Sink.level = LEVELS.index(name)
    if path is not None:
        _Sink.fd = open_at_once(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    elif not to_stderr:
        _Sink.fd = NOWHERE


def traces_all() -> bool:
    """Whether the level is trace, which switches on every trace event."""
    return _Sink.level == 0


def last_error() -> str:
    """The text of the last error, for a user who did not see it in a log on stderr."""
    return "" if _Sink.fd == STDERR else _Sink.last_error


def descriptor() -> int:
    """The file descriptor that the log goes to; -1 when it goes nowhere."""
    return _Sink.fd


def descriptors() -> set[int]:
    """The descriptors that a process must keep open to go on logging."""
    return {_Sink.fd} - {NOWHERE}


def notice(text: str) -> None:
    """Print one line for the user on stderr, independent of the log."""
    print(f"stratovirt: {one_line(text)}", file=sys.stderr)


class Log:
    """The log of one module."""

    def __init__(self, module: str) -> None:
        self._module = module.removeprefix("stratovirt.")
        self._limit: RateLimit | None = None
        self._held_back = 0

    def _emit(self, level: int, text: str) -> None:
        if level < _Sink.level or _Sink.fd == NOWHERE:
            return
        text = self._limited(text)
        if not text:
            return
        now = time.time()
        # strftime(3) would look at the host's time zone file each time.
        t = time.localtime(now)
        stamp = f"{t[0]}-{t[1]:02}-{t[2]:02}T{t[3]:02}:{t[4]:02}:{t[5]:02}"
        stamp = f"{stamp}.{int(now * 1000) % 1000:03d}"
        line = f"{stamp} {LEVELS[level]:<5} {self._module}: {one_line(text)}\n"
        with suppress(OSError):
            # A log that cannot be written (full disk, closed pipe) must not stop a guest.
            os.write(_Sink.fd, line.encode(errors="replace"))

    def _limited(self, text: str) -> str:
        """`text` with a note about suppressed lines; empty when the rate limit suppresses it."""
        if self._limit is None:
            from stratovirt._native.rate_limit import RateLimit

            self._limit = RateLimit(1, NS_PER_SECOND, LINES_AT_ONCE)
        now_ns = time.monotonic_ns()
        if not self._limit.admits(now_ns):
            self._held_back += 1
            return ""
        if self._held_back:
            text += f" ({self._held_back} lines before this one were held back)"
            self._held_back = 0
        elif self._limit.ready_at_ns(now_ns) > now_ns:
            text += " (too many lines: from now on at most one a second)"
        return text

    def debug(self, text: str) -> None:
        """Log an action of a device."""
        self._emit(1, text)

    def info(self, text: str) -> None:
        """Log a step in the machine's life; about a dozen lines in all."""
        self._emit(2, text)

    def warn(self, text: str) -> None:
        """Log a handled problem, for example a misbehaving guest."""
        self._emit(3, text)

    def error(self, text: str) -> None:
        """Log an error that the user must know; `last_error` returns it."""
        _Sink.last_error = text
        self._emit(4, text)
