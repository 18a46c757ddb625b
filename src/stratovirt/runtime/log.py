"""The log: one line an event, with time, level and module.

The standard library's logging would exceed the process's budget of start-up time.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress

from stratovirt.errors import StratovirtError, one_line
from stratovirt.runtime.descriptors import open_at_once

LEVELS = ("trace", "debug", "info", "warn", "error")
DEBUG, INFO, WARN, ERROR = range(1, len(LEVELS))
DEFAULT_LEVEL = "error"
LINES_AT_ONCE = 100
"""Burst of lines from one module, then one a second: a guest can cause most log lines."""
NS_PER_SECOND = 1_000_000_000
STDERR, NOWHERE = 2, -1


class Sink:
    """Where log lines go, from which level on, and how many each module may write."""

    def __init__(self, fd: int = STDERR, level: str = DEFAULT_LEVEL) -> None:
        self.fd = fd
        self._level = LEVELS.index(level)
        self._last_error = ""
        self._limits: dict[str, _Limit] = {}

    @property
    def traces_all(self) -> bool:
        """Whether the level is trace, which switches on every trace event."""
        return self._level == 0

    @property
    def unseen_error(self) -> str:
        """The text of the last error, for a user who did not see it in a log on stderr."""
        return "" if self.fd == STDERR else self._last_error

    def write(self, module: str, level: int, text: str) -> None:
        """Log one line of a module, unless level or rate limit suppress it."""
        if level == ERROR:
            self._last_error = text
        if level < self._level or self.fd == NOWHERE:
            return
        text = self._limited(module, text)
        if not text:
            return
        now = time.time()
        # strftime(3) would look at the host's time zone file each time.
        t = time.localtime(now)
        stamp = f"{t[0]}-{t[1]:02}-{t[2]:02}T{t[3]:02}:{t[4]:02}:{t[5]:02}"
        stamp = f"{stamp}.{int(now * 1000) % 1000:03d}"
        line = f"{stamp} {LEVELS[level]:<5} {module}: {one_line(text)}\n"
        with suppress(OSError):
            # A log that cannot be written (full disk, closed pipe) must not stop a guest.
            os.write(self.fd, line.encode(errors="replace"))

    def _limited(self, module: str, text: str) -> str:
        """`text` with a note about suppressed lines; empty when the rate limit suppresses it."""
        limit = self._limits.get(module)
        if limit is None:
            limit = self._limits.setdefault(module, _Limit())
        return limit.admit(text)


class _Limit:
    """The rate limit of one module's lines."""

    def __init__(self) -> None:
        from stratovirt._native.rate_limit import RateLimit

        self._limit = RateLimit(1, NS_PER_SECOND, LINES_AT_ONCE)
        self._held_back = 0

    def admit(self, text: str) -> str:
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


class _Installed:
    """The sink of every `Log`: that of the Process whose log is open, otherwise stderr."""

    sink = Sink()
    is_taken = False


def open_sink(path: str | None, *, to_stderr: bool) -> Sink:
    """Have all logs write to the file at `path`, to stderr or nowhere, until `close_sink`.

    The environment's STRATOVIRT_LOG_LEVEL is the level.  A `Log` is the name of a module and knows
    no Process, so there is one sink at a time: StratovirtError while another is open.  Raises
    OSError when the file cannot be opened, ValueError for an unknown level.
    """
    level = os.environ.get("STRATOVIRT_LOG_LEVEL", DEFAULT_LEVEL).lower()
    if level not in LEVELS:
        raise ValueError(f"STRATOVIRT_LOG_LEVEL must be one of {', '.join(LEVELS)}, not '{level}'")
    if _Installed.is_taken:
        raise StratovirtError("the log is another Process's, which has to be closed first")
    fd = STDERR if to_stderr else NOWHERE
    if path is not None:
        fd = open_at_once(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    _Installed.sink, _Installed.is_taken = Sink(fd, level), True
    return _Installed.sink


def close_sink() -> None:
    """Have all logs write to stderr again, errors only, and close the file."""
    closed, _Installed.sink, _Installed.is_taken = _Installed.sink, Sink(), False
    if closed.fd > STDERR:
        os.close(closed.fd)


def descriptor() -> int:
    """The file descriptor that the log goes to; -1 when it goes nowhere."""
    return _Installed.sink.fd


def descriptors() -> set[int]:
    """The descriptors that a process must keep open to go on logging."""
    return {descriptor()} - {NOWHERE}


def notice(text: str) -> None:
    """Print one line for the user on stderr, independent of the log."""
    print(f"stratovirt: {one_line(text)}", file=sys.stderr)


class Log:
    """The log of one module."""

    def __init__(self, module: str) -> None:
        self._module = module.removeprefix("stratovirt.")

    def debug(self, text: str) -> None:
        """Log an action of a device."""
        _Installed.sink.write(self._module, DEBUG, text)

    def info(self, text: str) -> None:
        """Log a step in the machine's life; about a dozen lines in all."""
        _Installed.sink.write(self._module, INFO, text)

    def warn(self, text: str) -> None:
        """Log a handled problem, for example a misbehaving guest."""
        _Installed.sink.write(self._module, WARN, text)

    def error(self, text: str) -> None:
        """Log an error that the user must know; it is the sink's `unseen_error`."""
        _Installed.sink.write(self._module, ERROR, text)
