"""Relays a monitor's clients, accepted by the broker, to the machine."""

from __future__ import annotations

import os
import socket

from stratovirt.chardev.backend import Chardev
from stratovirt.host import wire
from stratovirt.host.grants import Witness
from stratovirt.runtime.loop import READABLE, WRITABLE

CHUNK = 1 << 16


class Relay:
    """One monitor: each client gets a socket pair to the machine, and its witness sees the input.

    Neither side is read while the other's output is blocked.
    """

    def __init__(self, number: int, chardev: Chardev, witness: Witness, news: socket.socket):
        self._number, self._chardev = number, chardev
        self.witness, self._news = witness, news
        self._loop = chardev.loop
        self._machine: socket.socket | None = None
        self._outgoing: list[tuple[bytes, list[int]]] = []
        self._has_said_all = False
        chardev.on_input = self._from_client
        chardev.room = lambda: 0 if self._outgoing else CHUNK
        chardev.on_drained = self._watch
        chardev.on_connected = self._connected
        chardev.on_disconnected = self._disconnected
        chardev.on_input_ended = self._client_has_said_all
        chardev.takes_descriptors = True
        chardev.output_limit = 2 * CHUNK

    def _connected(self) -> None:
        self._has_said_all = False
        kinds = socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._machine, theirs = socket.socketpair(socket.AF_UNIX, kinds)
        # The machine continues the witness's request count from here.
        news: dict[str, object] = {"client": self._number, "requests": self.witness.count}
        wire.send(self._news, news, [theirs.fileno()])
        theirs.close()
        self._watch()

    def _disconnected(self) -> None:
        self.witness.forget()
        if self._machine is not None:
            self._loop.unwatch(self._machine.fileno())
            self._machine.close()
            self._machine = None
        for _, fds in self._outgoing:
            _close(fds)
        self._outgoing = []

    def _watch(self) -> None:
        if self._machine is None:
            return
        events = 0 if self._chardev.is_backed_up else READABLE
        if self._outgoing:
            events |= WRITABLE
        self._loop.watch(self._machine.fileno(), events, self._ready)

    def _from_client(self, received: bytes) -> None:
        # Before the machine can request a file that the command names.
        self.witness.read(received)
        fds, self._chardev.descriptors = self._chardev.descriptors, []
        self._outgoing.append((received, fds))
        self._flush()

    def _client_has_said_all(self) -> None:
        """Pass on the end of input after the last command; the machine closes after its answer."""
        self._has_said_all = True
        self._flush()

    def _flush(self) -> None:
        while self._outgoing and self._machine is not None:
            content, fds = self._outgoing[0]
            try:
                count = socket.send_fds(self._machine, [content], fds)
            except BlockingIOError:
                break
            except OSError:
                self._chardev.disconnect()
                return
            _close(fds)
            self._outgoing[:1] = [(content[count:], [])] if count < len(content) else []
        if self._has_said_all and not self._outgoing and self._machine is not None:
            self._machine.shutdown(socket.SHUT_WR)
        self._watch()
        self._chardev.resume_input()

    def _ready(self, events: int) -> None:
        if events & WRITABLE:
            self._flush()
        if events & ~WRITABLE and self._machine is not None:
            self._from_machine()

    def _from_machine(self) -> bool:
        assert self._machine is not None
        try:
            content = self._machine.recv(CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            content = b""
        if not content:
            if self._has_said_all:
                # The machine has answered everything.
                self._disconnected()
                self._chardev.finish()
            else:
                # The machine disconnects this client.
                self._chardev.drain(0)
                self._chardev.disconnect()
                self._disconnected()
            return False
        self._chardev.write(content)
        self._watch()
        return True

    def finish(self) -> None:
        """Send the ended machine's remaining output to the client, as far as it reads."""
        while self._machine is not None and self._from_machine():
            self._chardev.drain()
        self._chardev.drain()
        self._chardev.close()


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
