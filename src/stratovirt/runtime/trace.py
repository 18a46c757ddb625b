"""Switching trace events on and off, by name or pattern."""

from __future__ import annotations

import os
from fnmatch import fnmatchcase

from stratovirt._native.trace import TraceEvent, set_sinks
from stratovirt.errors import StratovirtError
from stratovirt.runtime import log
from stratovirt.runtime.descriptors import open_at_once
from stratovirt.runtime.trace_events import EVENTS

MARKERS = ("/sys/kernel/tracing/trace_marker", "/sys/kernel/debug/tracing/trace_marker")


class _Sinks:
    are_open = False
    take_lines = False


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


def set_state(pattern: str, *, enable: bool) -> bool:
    """Switch the matching events on or off; False when none matches.

    Raises StratovirtError when there is no log or trace marker to write to.
    """
    found = matching(pattern)
    if enable and found:
        open_sinks()
        if not _Sinks.take_lines:
            raise StratovirtError(
                "trace events have nowhere to go: give -D, or let this process write to "
                f"{MARKERS[0]}"
            )
    for event in found:
        event.enabled = enable
    return bool(found)


def enable_from(path: str) -> None:
    """Switch on the events listed in a file, one name or pattern a line; # starts a comment.

    Raises StratovirtError for a file that cannot be read and for a name that matches nothing.
    """
    try:
        fd = open_at_once(path, os.O_RDONLY)
        with open(fd, encoding="utf-8", errors="replace") as listing:
            lines = listing.read(1 << 20).splitlines()
    except OSError as error:
        raise StratovirtError(f"-trace events={path}: cannot read: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        pattern = line.partition("#")[0].strip()
        if not pattern:
            continue
        try:
            is_known = set_state(pattern, enable=True)
        except StratovirtError as error:
            raise StratovirtError(f"-trace events={path}: {error}") from error
        if not is_known:
            raise StratovirtError(
                f"-trace events={path}: line {number}: no trace event is called "
                f"'{pattern[:80]}'; -trace help lists them"
            )


def open_sinks() -> None:
    """Open the outputs of trace events: the log and tracefs's trace_marker."""
    if _Sinks.are_open:
        return
    _Sinks.are_open = True
    marker = -1
    for path in MARKERS:
        try:
            marker = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            break
        except OSError:
            # Without tracefs, or the right to write there, the log alone has the events.
            continue
    set_sinks(log.descriptor(), marker)
    _Sinks.take_lines = max(log.descriptor(), marker) >= 0
