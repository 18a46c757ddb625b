"""The user's terminal in raw mode, and back again however the process ends."""

from __future__ import annotations

import os
import termios
import tty

from stratovirt.runtime.cleanup import at_exit


def make_raw(fd: int) -> None:
    """Put the terminal `fd` into raw mode until the process ends; other files stay as they are."""
    if not os.isatty(fd):
        return
    saved = termios.tcgetattr(fd)

    def restore() -> None:
        termios.tcsetattr(fd, termios.TCSANOW, saved)

    at_exit(restore)
    tty.setraw(fd, termios.TCSANOW)
