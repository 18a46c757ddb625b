"""A new pseudo terminal, its path printed on standard output."""

from __future__ import annotations

import os
import select
import sys
import time
import tty

from stratovirt.chardev.backend import Chardev
from stratovirt.config.chardev import PtyChardev
from stratovirt.runtime.loop import Loop, Timer

LOOK_AGAIN_NS = 250_000_000
"""Interval of polling an unopened terminal: the longest delay until its input is read."""


class Pty(Chardev):
    """The master's side; users open the path that is printed."""

    def __init__(self, loop: Loop, options: PtyChardev) -> None:
        super().__init__(loop, options.id)
        # The slave is closed here, so that the master's hang-up tells whether there is a user.
        self._master, slave = os.openpty()
        tty.setraw(slave)
        os.set_blocking(self._master, False)
        path = os.ttyname(slave)
        os.close(slave)
        self._next_look: Timer | None = None
        self.description = f"pty:{path}"
        print(f"char device redirected to {path} (label {options.id})", file=sys.stdout, flush=True)

    def open(self) -> None:
        """Start to serve the terminal."""
        self._look()

    def write(self, content: bytes) -> None:
        """Send to the user; dropped while the terminal is not open."""
        if self._has_user():
            self._greet()
            super().write(content)

    def _has_user(self) -> bool:
        poller = select.poll()
        poller.register(self._master, 0)
        return not poller.poll(0)

    def _greet(self) -> None:
        if self._output_fd < 0:
            self._attach(self._master, self._master)
            self.on_connected()

    def _look(self) -> None:
        # The kernel gives no notification when a terminal is opened.
        self._next_look = None
        if self._has_user():
            self._greet()
        else:
            when = time.monotonic_ns() + LOOK_AGAIN_NS
            self._next_look = self.loop.call_at(when, self._look)

    def _hung_up(self) -> None:
        if self._output_fd >= 0:
            self._detach()
            self.on_disconnected()
            self._look()

    def close(self) -> None:
        """Close the master."""
        super().close()
        if self._next_look is not None:
            self._next_look.cancel()
        os.close(self._master)
