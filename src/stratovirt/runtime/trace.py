"""Switching trace events on and off, by name or pattern, and their outputs."""

from __future__ import annotations

import os
from fnmatch import fnmatchcase

from stratovirt._native.trace import TraceEvent, clear_sinks, set_sinks
from stratovirt._native.trace_events import EVENTS
from stratovirt.errors import StratovirtError
from stratovirt.runtime import log
from stratovirt.runtime.descriptors import open_at_once

MARKERS = ("/sys/kernel/tracing/trace_marker", "/sys/kernel/debug/tracing/trace_marker")
NO_MARKER = -1


def matching(pattern: str) -> list[TraceEvent]:
    """The events that `pattern` (a name, or one with * and ?) names."""
    return [event for name, event in EVENTS.items() if fnmatchcase(name, pattern)]


def listing() -> str:
    """Every event with its arguments, one a line."""
    lines = []
    for name, event in EVENTS.items():
        arguments = ", ".join(f"{key} ({kind})" for key, kind in event.arguments.items())
        lines.append(f"{name:<22} {event.help}: {arguments}")
    return "\n".join(lines)


class Tracing:
    """The outputs of trace events, the log and tracefs's trace_marker, while one Process has them.

    Events are global like the modules that report them, so one Process at a time traces.
    """

    def __init__(self) -> None:
        self._is_open = False
        self._marker = NO_MARKER

    def open(self) -> None:
        """Open the outputs; raises StratovirtError while another Process has them."""
        if self._is_open:
            return
        marker = _open_marker()
        try:
            set_sinks(log.descriptor(), marker)
        except ValueError as error:
            if marker != NO_MARKER:
                os.close(marker)
            raise StratovirtError(
                "trace events are another Process's, which has to be closed first"
            ) from error
        self._is_open, self._marker = True, marker

    def close(self) -> None:
        """Switch off all events and close the marker."""
        if not self._is_open:
            return
        for event in EVENTS.values():
            event.enabled = False
        clear_sinks()
        if self._marker != NO_MARKER:
            os.close(self._marker)
        self._is_open, self._marker = False, NO_MARKER

    def set_state(self, pattern: str, *, enable: bool) -> bool:
        """Switch the matching events on or off; False when none matches.

        Raises StratovirtError when there is no log or trace marker to write to.
        """
        found = matching(pattern)
        if enable and found:
            self.open()
            if self._marker == NO_MARKER and log.descriptor() == log.NOWHERE:
                raise StratovirtError(
                    "trace events have nowhere to go: give -D, or let this process write to "
                    f"{MARKERS[0]}"
                )
        for event in found:
            event.enabled = enable
        return bool(found)

    def enable_from(self, path: str) -> None:
        """Switch on the events listed in a file, one name or pattern a line; # starts a comment.

        Raises StratovirtError for a file that cannot be read and for a name that matches nothing.
        """
        for number, pattern in _patterns(path):
            try:
                is_known = self.set_state(pattern, enable=True)
            except StratovirtError as error:
                raise StratovirtError(f"-trace events={path}: {error}") from error
            if not is_known:
                raise StratovirtError(
                    f"-trace events={path}: line {number}: no trace event is called "
                    f"'{pattern[:80]}'; -trace help lists them"
                )


def _patterns(path: str) -> list[tuple[int, str]]:
    """The patterns in a file and their line numbers."""
    try:
        fd = open_at_once(path, os.O_RDONLY)
        with open(fd, encoding="utf-8", errors="replace") as file:
            lines = file.read(1 << 20).splitlines()
    except OSError as error:
        raise StratovirtError(f"-trace events={path}: cannot read: {error.strerror}") from error
    patterns = ((number, line.partition("#")[0].strip()) for number, line in enumerate(lines, 1))
    return [(number, pattern) for number, pattern in patterns if pattern]


def _open_marker() -> int:
    for path in MARKERS:
        try:
            return os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            # Without tracefs, or the right to write there, the log alone has the events.
            continue
    return NO_MARKER
