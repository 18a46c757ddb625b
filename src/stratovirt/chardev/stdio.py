"""Standard input and output; a terminal goes raw and gets the Ctrl-A escape."""

from __future__ import annotations

import os

from stratovirt.chardev.backend import Chardev
from stratovirt.runtime.loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stratovirt.runtime.process import Process

ESCAPE = 0x01
"""Ctrl-A: at a terminal the next byte is a command to this process, as in QEMU's console."""
HELP = (
    b"\r\nC-a h    print this help\r\n"
    b"C-a x    end the machine\r\n"
    b"C-a c    say that there is no monitor at this terminal (-qmp makes one elsewhere)\r\n"
    b"C-a C-a  send C-a\r\n"
)
NO_MONITOR = b"\r\nthere is no monitor at this terminal; C-a h prints what there is\r\n"

TYPED_LIMIT = 4096
"""Most bytes of terminal input kept until the guest reads them; further input is dropped."""


class Stdio(Chardev):
    """The standard input and output of this process."""

    description = "stdio"

    def __init__(
        self, process: Process, loop: Loop, label: str, quit_requested: Callable[[], None]
    ) -> None:
        super().__init__(loop, label)
        self._process = process
        self._quit_requested = quit_requested
        self._escaped = False
        self._is_terminal = False
        self._typed = bytearray()

    def open(self) -> None:
        """Start to serve the streams; a terminal is set to raw mode."""
        self._is_terminal = os.isatty(0)
        if self._is_terminal:
            from stratovirt.runtime.terminal import make_raw

            make_raw(0, self._process.cleanup)
        self._attach(0, 1)
        self.on_connected()

    def resume_input(self) -> None:
        """The device has room again."""
        if self._is_terminal:
            self._deliver()
        else:
            super().resume_input()

    def _receive(self) -> None:
        if not self._is_terminal:
            super()._receive()
            return
        # Read whether or not the guest has room: the escape works at any time.
        try:
            received = os.read(0, TYPED_LIMIT)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        if not received:
            self._input_ended()
            return
        kept = self._without_escapes(received)
        self._typed += kept[: TYPED_LIMIT - len(self._typed)]
        self._deliver()

    def _deliver(self) -> None:
        count = min(self.room(), len(self._typed))
        if count > 0:
            content = bytes(self._typed[:count])
            del self._typed[:count]
            self.on_input(content)

    def _without_escapes(self, received: bytes) -> bytes:
        kept = bytearray()
        for byte in received:
            if self._escaped:
                self._escaped = False
                if byte == ESCAPE:
                    kept.append(byte)
                else:
                    self._obey(byte)
            elif byte == ESCAPE:
                self._escaped = True
            else:
                kept.append(byte)
        return bytes(kept)

    def _obey(self, command: int) -> None:
        if command in b"xX":
            self._quit_requested()
        elif command in b"hH?":
            self.write(HELP)
        elif command in b"cC":
            self.write(NO_MONITOR)

    def _hung_up(self) -> None:
        # End of input is no end of output: a guest whose stdin is /dev/null still has a console.
        if self._is_terminal:
            # The terminal was closed, so no user could end the machine any more.
            self._quit_requested()

    def _output_failed(self, _error: OSError) -> None:
        # The reader has gone for good; the guest talks to nobody, and input goes on.
        self.loop.unwatch(self._output_fd)
        self._output_fd = -1
        self._drop_output()
