"""The user's terminal in raw mode, and back again however the process ends."""

from __future__ import annotations

import errno
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
        # What was typed and the guest did not take is no command for the user's shell.  Not
        # TCSAFLUSH, which waits for a terminal that may show nothing any more.
        try:
            termios.tcflush(fd, termios.TCIFLUSH)
            termios.tcsetattr(fd, termios.TCSANOW, saved)
        except termios.error as error:
            if error.args[0] != errno.EIO:
                raise
            # Its window was closed: there is no mode to go back to.

    at_exit(restore)
    tty.setraw(fd, termios.TCSANOW)
