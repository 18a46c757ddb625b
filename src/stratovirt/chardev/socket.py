"""A UNIX or TCP socket: a server with one client at a time, or a client that may reconnect."""

from __future__ import annotations

import socket
import time

from stratovirt.chardev.backend import ChardevError
from stratovirt.chardev.peer import PeerChardev
from stratovirt.config.chardev import SocketChardev
from stratovirt.errors import StratovirtError
from stratovirt.runtime.faults import reason
from stratovirt.runtime.log import Log
from stratovirt.runtime.loop import READABLE, Loop
from stratovirt.runtime.sockets import listen_tcp, listen_unix
from stratovirt.runtime.threads import start_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.host.access import HostAccess
    from stratovirt.runtime.cleanup import CleanUp
    from stratovirt.runtime.process import Process

log = Log(__name__)

ACCEPT_PAUSE_NS = 1_000_000_000
"""Pause before the next accept when one fails, as at the limit of open descriptors."""


class SocketBackend(PeerChardev):
    """A socket chardev: a server with one client at a time, or a client that may reconnect."""

    def __init__(
        self,
        process: Process,
        loop: Loop,
        options: SocketChardev,
        access: HostAccess,
        source: str,
    ) -> None:
        super().__init__(loop, options.id)
        self._options = options
        self._access = access
        self._source = source
        self.carries_descriptors = options.path is not None
        self._listener: socket.socket | None = None
        self._is_closed = False
        self.waits = options.waits
        if options.server:
            try:
                self._listener = self._listen(process.cleanup)
            except OSError as error:
                raise ChardevError(
                    f"{source}: cannot listen on {options.address}: {error.strerror}"
                ) from error
        else:
            self._connect_first()
        self.description = self._describe()

    def _listen(self, cleanup: CleanUp) -> socket.socket:
        if self._options.path is not None:
            return listen_unix(self._options.path, cleanup)
        assert self._options.port is not None
        return listen_tcp(self._options.host, self._options.port)

    def _connect(self) -> socket.socket:
        return self._access.open(self._options.connection())

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
        """Serve the connected peer, or wait for one."""
        if self._peer is not None:
            self._use(self._peer)
        else:
            self._await_next()

    def close(self) -> None:
        """Close connection and listener without calling `on_disconnected`."""
        self._is_closed = True
        super().close()
        if self._listener is not None:
            self.loop.unwatch(self._listener.fileno())
            self._listener.close()
            self._listener = None

    def _accept(self, _events: int) -> None:
        assert self._listener is not None
        try:
            peer, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            # The client stays queued: without a pause the loop would do nothing else.
            log.warn(f"chardev {self.label}: a client could not be accepted: {error.strerror}")
            self.loop.unwatch(self._listener.fileno())
            self.loop.call_at(time.monotonic_ns() + ACCEPT_PAUSE_NS, self._await_next)
            return
        self.loop.unwatch(self._listener.fileno())
        self._use(peer)

    def _await_next(self) -> None:
        if self._listener is not None:
            self._listener.setblocking(False)
            self.loop.watch(self._listener.fileno(), READABLE, self._accept)
        elif self._options.reconnect:
            self._reconnect_later()

    def _reconnect_later(self) -> None:
        if self._options.reconnect and not self._is_closed:
            when = time.monotonic_ns() + self._options.reconnect * 1_000_000_000
            self.loop.call_at(when, self._reconnect)

    def _reconnect(self) -> None:
        # Not in the loop: a host that does not answer takes seconds, and the machine runs on.
        if not self._is_closed:
            start_thread("chr-connect", self._try_to_connect)

    def _try_to_connect(self) -> None:
        found: socket.socket | str
        try:
            found = self._connect()
        except (OSError, StratovirtError) as error:
            found = reason(error)
        self.loop.call_soon(lambda: self._tried(found))

    def _tried(self, found: socket.socket | str) -> None:
        if isinstance(found, str):
            log.debug(f"chardev {self.label}: cannot reconnect: {found}")
            self._reconnect_later()
        elif self._is_closed:
            found.close()
        else:
            self._use(found)
