"""A UNIX or TCP socket: a server with one client at a time, or a client that may reconnect."""

from __future__ import annotations

import os
import socket
import time

from stratovirt.chardev.backend import Chardev, ChardevError
from stratovirt.config.chardev import SocketChardev
from stratovirt.runtime.log import Log
from stratovirt.runtime.loop import READABLE, Loop
from stratovirt.runtime.sockets import connect_tcp, connect_unix, listen_tcp, listen_unix

log = Log(__name__)

MOST_DESCRIPTORS = 16
"""Descriptors kept of one message; a client that sends more loses the others."""


class SocketBackend(Chardev):
    """See the module's text."""

    chunk = 1 << 16

    def __init__(self, loop: Loop, options: SocketChardev, source: str) -> None:
        super().__init__(loop, options.id)
        self._options = options
        self._source = source
        self._peer: socket.socket | None = None
        self._listener: socket.socket | None = None
        self.waits = options.waits
        if options.server:
            try:
                self._listener = self._listen()
            except OSError as error:
                raise ChardevError(
                    f"{source}: cannot listen on {options.address}: {error.strerror}"
                ) from error
        else:
            self._connect_first()
        self.description = self._describe()

    def _listen(self) -> socket.socket:
        if self._options.path is not None:
            return listen_unix(self._options.path)
        assert self._options.port is not None
        return listen_tcp(self._options.host, self._options.port)

    def _connect(self) -> socket.socket:
        if self._options.path is not None:
            return connect_unix(self._options.path)
        assert self._options.port is not None
        return connect_tcp(self._options.host or "localhost", self._options.port)

    def _connect_first(self) -> None:
        try:
            self._peer = self._connect()
        except OSError as error:
            if not self._options.reconnect:
                raise ChardevError(
                    f"{self._source}: cannot connect to {self._options.address}: {error.strerror}"
                ) from error

    def _describe(self) -> str:
        kind = "unix" if self._options.path is not None else "tcp"
        address = self._options.address
        if self._listener is not None and kind == "tcp":
            host, port = self._listener.getsockname()[:2]
            address = f"{host}:{port}"
        return f"{kind}:{address}" + (",server=on" if self._options.server else "")

    def open(self) -> None:
        """Start to serve the peer, or to wait for one."""
        if self._peer is not None:
            self._use(self._peer)
        elif self._listener is not None:
            self.loop.watch(self._listener.fileno(), READABLE, self._accept)
        else:
            self._reconnect_later()

    def close(self) -> None:
        """Leave the peer and stop listening; nobody is told."""
        super().close()
        if self._peer is not None:
            self._peer.close()
            self._peer = None
        if self._listener is not None:
            self.loop.unwatch(self._listener.fileno())
            self._listener.close()
            self._listener = None
        self._forget_descriptors()

    def _use(self, peer: socket.socket) -> None:
        peer.setblocking(False)
        self._peer = peer
        self._attach(peer.fileno(), peer.fileno())
        self.on_connected()

    def _accept(self, _events: int) -> None:
        assert self._listener is not None
        try:
            peer, _ = self._listener.accept()
        except OSError as error:
            log.warn(f"chardev {self.label}: a client could not be accepted: {error.strerror}")
            return
        self.loop.unwatch(self._listener.fileno())
        self._use(peer)

    def _hung_up(self) -> None:
        self._detach()
        if self._peer is None:
            return
        self._peer.close()
        self._peer = None
        self._forget_descriptors()
        self.on_disconnected()
        if self._listener is not None:
            self.loop.watch(self._listener.fileno(), READABLE, self._accept)
        elif self._options.reconnect:
            self._reconnect_later()

    def _reconnect_later(self) -> None:
        if self._options.reconnect:
            when = time.monotonic_ns() + self._options.reconnect * 1_000_000_000
            self.loop.call_at(when, self._reconnect)

    def _reconnect(self) -> None:
        try:
            self._use(self._connect())
        except OSError as error:
            log.debug(f"chardev {self.label}: cannot reconnect: {error.strerror}")
            self._reconnect_later()

    def _read(self, size: int) -> bytes:
        if not self.takes_descriptors or self._options.path is None:
            return super()._read(size)
        assert self._peer is not None
        received, descriptors, _flags, _address = socket.recv_fds(
            self._peer, size, MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
        )
        if descriptors:
            # Those of an earlier message that nobody asked for are given back.
            self._forget_descriptors()
            self.descriptors = descriptors
        return received

    def _forget_descriptors(self) -> None:
        for fd in self.descriptors:
            os.close(fd)
        self.descriptors = []
