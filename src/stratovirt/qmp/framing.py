"""Splits a client's byte stream into requests.

A request ends with its newline, or without one where its object closes: QEMU's own client sends
no newline.  Input that is no object, an array for example, ends with its newline only.  The
scanner looks only at quotes, brackets and newlines; the JSON parser checks the content.
"""

from __future__ import annotations

import re

REQUEST_LIMIT = 1 << 20
"""Longest request, in bytes; a longer one is discarded up to the end of its line."""

NEWLINE = ord("\n")
_OUTSIDE = re.compile(rb'["{}\[\]\n]')
_INSIDE = re.compile(rb'["\\\n]')


class TooLong:
    """Marks a request longer than REQUEST_LIMIT."""


class Framer:
    """Splitter of one client's stream; `feed` returns the complete requests."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._restart()
        self._skipping = False

    def _restart(self) -> None:
        self._position = 0
        self._depth = 0
        self._in_string = False

    def feed(self, received: bytes) -> list[bytes | TooLong]:
        """The requests completed by `received`, independent of how the stream is split."""
        if self._skipping:
            _, newline, received = received.partition(b"\n")
            self._skipping = not newline
        self._pending += received
        frames: list[bytes | TooLong] = []
        while True:
            end = self._scan()
            if (end or len(self._pending)) > REQUEST_LIMIT:
                frames.append(TooLong())
                self._skip_line()
            elif end is not None:
                if frame := bytes(self._pending[:end]).strip():
                    frames.append(frame)
                self._drop(end)
            else:
                return frames

    def _skip_line(self) -> None:
        newline = self._pending.find(b"\n", REQUEST_LIMIT)
        self._skipping = newline < 0
        self._drop(len(self._pending) if self._skipping else newline + 1)

    def _drop(self, count: int) -> None:
        del self._pending[:count]
        self._restart()

    def _scan(self) -> int | None:
        """End offset of the first request, or None while it is incomplete."""
        while True:
            pattern = _INSIDE if self._in_string else _OUTSIDE
            found = pattern.search(self._pending, self._position)
            if found is None:
                self._position = len(self._pending)
                return None
            mark = found[0]
            if mark == b"\\":
                # The escaped byte is skipped, unless it ends the request; it may not be here yet.
                if found.end() == len(self._pending):
                    self._position = found.start()
                    return None
                is_newline = self._pending[found.end()] == NEWLINE
                self._position = found.end() + (not is_newline)
                continue
            self._position = found.end()
            if mark == b"\n":
                return self._position
            if mark == b'"':
                self._in_string = not self._in_string
            elif mark in b"{[":
                self._depth += 1
            else:
                self._depth = max(0, self._depth - 1)
                if self._depth == 0 and mark == b"}":
                    return self._position
