"""Standard input and output; a terminal goes raw and gets the Ctrl-A escape."""

from __future__ import annotations

import os

from stratovirt.chardev.backend import Chardev
from stratovirt.runtime.loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

ESCAPE = 0x01
"""Ctrl-A: at a terminal, Ctrl-A x ends the machine and Ctrl-A Ctrl-A sends one Ctrl-A."""


class Stdio(Chardev):
    """This process's own streams."""

    description = "stdio"

    def __init__(self, loop: Loop, label: str, quit_requested: Callable[[], None]) -> None:
        super().__init__(loop, label)
        self._quit_requested = quit_requested
        self._escaped = False

    def open(self) -> None:
        """Take the streams over."""
        if os.isatty(0):
            from stratovirt.runtime.terminal import make_raw

            make_raw(0)
            deliver = self.on_input
            self.on_input = lambda received: deliver(self._without_escapes(received))
        self._attach(0, 1)
        self.on_connected()

    def _without_escapes(self, received: bytes) -> bytes:
        kept = bytearray()
        for byte in received:
            if self._escaped:
                self._escaped = False
                if byte in b"xX":
                    self._quit_requested()
                elif byte == ESCAPE:
                    kept.append(byte)
            elif byte == ESCAPE:
                self._escaped = True
            else:
                kept.append(byte)
        return bytes(kept)

    def _hung_up(self) -> None:
        # End of input is no end of output: a guest whose stdin is /dev/null still has a console.
        self.loop.unwatch(0)
        self._input_fd = -1
        self._input_watched = False
