"""Raw mode of the user's terminal, undone at every exit of the process."""

from __future__ import annotations

import errno
import os
import termios
import tty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.runtime.cleanup import CleanUp


def make_raw(fd: int, cleanup: CleanUp) -> None:
    """Put the terminal `fd` into raw mode until the process ends; ignores other files."""
    if not os.isatty(fd):
        return
    saved = termios.tcgetattr(fd)

    def restore() -> None:
        # Discards input that the guest did not read, which the shell would run as commands.
        # Not TCSAFLUSH, which waits for output that a stopped terminal never shows.
        try:
            termios.tcflush(fd, termios.TCIFLUSH)
            termios.tcsetattr(fd, termios.TCSANOW, saved)
        except termios.error as error:
            if error.args[0] != errno.EIO:
                raise
            # Its window was closed: there is no mode to go back to.

    cleanup.at_exit(restore)
    tty.setraw(fd, termios.TCSANOW)
