"""One back end per kind of -chardev: stdio, file, pty, UNIX socket."""

from __future__ import annotations

import os
import socket

from stratovirt.chardev.backend import Chardev, ChardevError
from stratovirt.config import devices as config
from stratovirt.runtime.log import Log
from stratovirt.runtime.loop import READABLE, Loop
from stratovirt.runtime.unix_socket import listen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

log = Log(__name__)

ESCAPE = 0x01
"""Ctrl-A: at a terminal, Ctrl-A x ends the machine and Ctrl-A Ctrl-A sends one Ctrl-A."""


class Stdio(Chardev):
    """Standard input and output; a terminal goes raw and gets the Ctrl-A escape."""

    def __init__(self, loop: Loop, quit_requested: Callable[[], None]) -> None:
        super().__init__(loop)
        self._quit_requested = quit_requested
        self._escaped = False
        self._is_terminal = os.isatty(0)

    def open(self) -> None:
        """Take the streams over."""
        if self._is_terminal:
            from stratovirt.runtime.terminal import make_raw

            make_raw(0)
            deliver = self.on_input
            self.on_input = lambda received: deliver(self._without_escapes(received))
        self._attach(0, 1)

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


class OutputFile(Chardev):
    """A file that output is written to."""

    def __init__(self, loop: Loop, options: config.FileChardev) -> None:
        super().__init__(loop)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        try:
            self._file = os.open(options.path, flags, 0o600)
        except OSError as error:
            raise ChardevError(
                f"{options.flag},path={options.path}: cannot open: {error.strerror}"
            ) from error

    def open(self) -> None:
        """Start to write."""
        self._attach(-1, self._file)


class Pty(Chardev):
    """A new pseudo terminal, its path printed on standard output."""

    def __init__(self, loop: Loop, options: config.PtyChardev) -> None:
        super().__init__(loop)
        import tty

        # The slave stays open here, so the master does not hang up between two users.
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        path = os.ttyname(self._slave)
        os.write(1, f"char device redirected to {path} (label {options.id})\n".encode())

    def open(self) -> None:
        """Start to serve it."""
        self._attach(self._master, self._master)


class UnixSocket(Chardev):
    """A UNIX socket: as a server with one client at a time, or connected to one."""

    def __init__(self, loop: Loop, options: config.SocketChardev) -> None:
        super().__init__(loop)
        self._peer: socket.socket | None = None
        self._listener: socket.socket | None = None
        source = f"{options.flag},path={options.path}"
        try:
            if options.server:
                self._listener = listen(options.path)
            else:
                self._peer = _connect(options.path)
        except OSError as error:
            action = "listen on" if options.server else "connect to"
            raise ChardevError(f"{source}: cannot {action} it: {error.strerror}") from error
        waits = not options.nowait and options.wait is not False
        if self._listener is not None and waits:
            log.info(f"waiting for a client on {options.path}")
            self._peer, _ = self._listener.accept()

    def open(self) -> None:
        """Start to serve the peer, or to wait for one."""
        if self._peer is not None:
            self._use(self._peer)
        elif self._listener is not None:
            self.loop.watch(self._listener.fileno(), READABLE, self._accept)

    def _use(self, peer: socket.socket) -> None:
        peer.setblocking(False)
        self._peer = peer
        self._attach(peer.fileno(), peer.fileno())

    def _accept(self, _events: int) -> None:
        assert self._listener is not None
        peer, _ = self._listener.accept()
        self.loop.unwatch(self._listener.fileno())
        self._use(peer)

    def _hung_up(self) -> None:
        self._detach()
        if self._peer is not None:
            self._peer.close()
            self._peer = None
        if self._listener is not None:
            self.loop.watch(self._listener.fileno(), READABLE, self._accept)


def _connect(path: str) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        peer.connect(path)
    except OSError:
        peer.close()
        raise
    return peer


AnyChardev = Stdio | OutputFile | Pty | UnixSocket


def make_chardev(
    loop: Loop,
    options: config.Chardev,
    quit_requested: Callable[[], None],
) -> AnyChardev:
    """The back end for `options`; `open` starts it once a device is attached."""
    if isinstance(options, config.StdioChardev):
        return Stdio(loop, quit_requested)
    if isinstance(options, config.FileChardev):
        return OutputFile(loop, options)
    if isinstance(options, config.PtyChardev):
        return Pty(loop, options)
    return UnixSocket(loop, options)
