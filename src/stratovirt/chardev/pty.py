"""A new pseudo terminal, its path printed on standard output."""

from __future__ import annotations

import os
import sys
import tty

from stratovirt.chardev.backend import Chardev
from stratovirt.config.chardev import PtyChardev
from stratovirt.runtime.loop import Loop


class Pty(Chardev):
    """The master's side; users open the path that is printed."""

    def __init__(self, loop: Loop, options: PtyChardev) -> None:
        super().__init__(loop, options.id)
        # The slave stays open here, so the master does not hang up between two users.
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        path = os.ttyname(self._slave)
        self.description = f"pty:{path}"
        print(f"char device redirected to {path} (label {options.id})", file=sys.stdout, flush=True)

    def open(self) -> None:
        """Start to serve it."""
        self._attach(self._master, self._master)
        self.on_connected()

    def close(self) -> None:
        """Give both ends back."""
        super().close()
        os.close(self._master)
        os.close(self._slave)
