"""Cuts a client's byte stream into requests.

A request ends with its newline, or without one where its object closes: QEMU's own client sends
no newline.  The scanner looks only at quotes, brackets and newlines; what is inside a request is
the JSON parser's business.
"""

from __future__ import annotations

import re

REQUEST_LIMIT = 1 << 20
"""Longest request, in bytes; of a longer one the rest of the line is thrown away."""

_OUTSIDE = re.compile(rb'["{}\[\]\n]')
_INSIDE = re.compile(rb'["\\\n]')


class TooLong:
    """Stands for a request that went over the limit."""


class Framer:
    """Feed it bytes; it gives whole requests back."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._restart()
        self._skipping = False

    def _restart(self) -> None:
        self._position = 0
        self._depth = 0
        self._in_string = False

    def feed(self, received: bytes) -> list[bytes | TooLong]:
        """The requests that `received` completes."""
        if self._skipping:
            _, newline, received = received.partition(b"\n")
            self._skipping = not newline
        self._pending += received
        frames: list[bytes | TooLong] = []
        while (end := self._scan()) is not None:
            frame = bytes(self._pending[:end]).strip()
            del self._pending[:end]
            self._restart()
            if frame:
                frames.append(frame)
        if len(self._pending) > REQUEST_LIMIT:
            frames.append(TooLong())
            self._pending.clear()
            self._restart()
            self._skipping = True
        return frames

    def _scan(self) -> int | None:
        """Where the first request ends, or None when it is not whole yet."""
        while True:
            pattern = _INSIDE if self._in_string else _OUTSIDE
            found = pattern.search(self._pending, self._position)
            if found is None:
                self._position = len(self._pending)
                return None
            mark = found[0]
            if mark == b"\\":
                # The escaped byte is skipped; it may not have come yet.
                if found.end() == len(self._pending):
                    self._position = found.start()
                    return None
                self._position = found.end() + 1
                continue
            self._position = found.end()
            if mark == b"\n":
                return self._position
            if mark == b'"':
                self._in_string = not self._in_string
            elif mark in b"{[":
                self._depth += 1
            else:
                self._depth -= 1
                if self._depth <= 0:
                    return self._position
