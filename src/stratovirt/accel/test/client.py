"""The connection to the test client: lines of commands, answered one by one."""

from __future__ import annotations

import socket

from stratovirt.accel.base import AccelError
from stratovirt.accel.test.commands import Commands
from stratovirt.runtime.log import Log
from stratovirt.runtime.loop import READABLE, Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

log = Log(__name__)

LINE_LIMIT = 1 << 20
"""Longest command line, in bytes; a client that exceeds it is disconnected."""


class Client:
    """The client at the UNIX socket `path`; `gone` is called when it has left.

    Raises AccelError when it cannot be connected to.
    """

    def __init__(self, loop: Loop, path: str, gone: Callable[[], None]) -> None:
        self._loop, self._gone = loop, gone
        self._pending = b""
        self._answered_early = False
        self._waiting: list[bytes] = []
        self._has_settled = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise AccelError(f"-mod-test {path}: cannot connect: {error.strerror}") from error

    def serve(self, commands: Commands) -> None:
        """Execute the client's commands from now on."""
        self._commands = commands
        self._loop.watch(self._socket.fileno(), READABLE, self._readable)

    def stop(self) -> None:
        """Serve the client no longer."""
        if self._socket.fileno() >= 0:
            self._loop.unwatch(self._socket.fileno())

    def close(self) -> None:
        """Close the connection; later calls change nothing."""
        self._socket.close()

    def _readable(self, _events: int) -> None:
        try:
            received = self._socket.recv(65536)
        except OSError:
            received = b""
        if not received:
            self._loop.unwatch(self._socket.fileno())
            self._gone()
            return
        self._waiting += self._lines(received)
        self._serve()
        if len(self._pending) > LINE_LIMIT:
            log.error(f"the test client's line is longer than {LINE_LIMIT} bytes")
            self._gone()

    def _serve(self) -> None:
        while self._waiting:
            if self._waiting[0].lstrip().startswith(b"clock_") and not self._has_settled:
                # Doorbells of earlier commands are handled first: a handler may set a timer.
                self._has_settled = True
                self._loop.unwatch(self._socket.fileno())
                self._loop.call_soon(self._go_on)
                return
            self._has_settled = False
            reply = self._commands.answer(self._waiting.pop(0).decode(errors="replace").strip())
            self._socket.sendall(reply.encode() + b"\n")

    def _go_on(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.watch(self._socket.fileno(), READABLE, self._readable)
            self._serve()

    def _lines(self, received: bytes) -> list[bytes]:
        """The command lines completed by `received`."""
        if self._answered_early:
            # Drop the late newline of a line that was answered before it arrived.
            received = received.removeprefix(b"\n")
        received = self._pending + received
        self._answered_early = Commands.is_whole(received, is_first=not self._pending)
        *lines, self._pending = [received, b""] if self._answered_early else received.split(b"\n")
        return lines
