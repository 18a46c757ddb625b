"""The log: one line an event, with time, level and module.

The standard library's logging costs more start-up time than this whole process has to spend.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress

from stratovirt.errors import one_line
from stratovirt.runtime.descriptors import open_at_once, outputs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt._native.rate_limit import RateLimit

LEVELS = ("trace", "debug", "info", "warn", "error")
DEFAULT_LEVEL = "error"
LINES_AT_ONCE = 100
"""Most lines of one module in a row, and then one a second: a guest can cause most of them."""
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
        outputs.add(_Sink.fd)
    elif not to_stderr:
        _Sink.fd = NOWHERE


def traces_all() -> bool:
    """Whether the level asks for every trace event."""
    return _Sink.level == 0


def last_error() -> str:
    """The text of the last error, for a user who did not see it in a log on stderr."""
    return "" if _Sink.fd == STDERR else _Sink.last_error


def descriptor() -> int:
    """The file descriptor that the log goes to; -1 when it goes nowhere."""
    return _Sink.fd


def descriptors() -> set[int]:
    """What a process that goes on logging has to keep open."""
    return {_Sink.fd} - {NOWHERE}


def notice(text: str) -> None:
    """What a user has to see at the start, with a log or without: one line on stderr."""
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
        """What to write instead of `text`: nothing when there were too many lines of late."""
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
        """What each device does."""
        self._emit(1, text)

    def info(self, text: str) -> None:
        """A machine's life, in about a dozen lines."""
        self._emit(2, text)

    def warn(self, text: str) -> None:
        """What went wrong and was dealt with, a misbehaving guest for instance."""
        self._emit(3, text)

    def error(self, text: str) -> None:
        """What the user must know."""
        _Sink.last_error = text
        self._emit(4, text)
