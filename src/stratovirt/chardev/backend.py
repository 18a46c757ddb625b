"""The chardev contract and the base of all back ends: watching, back pressure, limits."""

from __future__ import annotations

import os
import select

from stratovirt._native.trace_events import CHARDEV_CONNECTED, CHARDEV_DISCONNECTED
from stratovirt.errors import StratovirtError
from stratovirt.runtime.log import Log
from stratovirt.runtime.loop import HANGUP, READABLE, WRITABLE, Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

log = Log(__name__)

OUTPUT_HIGH = 4096
"""Bytes waiting for a slow peer at which the device is told to stop sending."""
OUTPUT_LIMIT = 1 << 16
"""Most bytes kept for a device that does not stop; further output is dropped and logged."""
DRAIN_PATIENCE_MS = 1000
"""Longest wait, at the end of the process, for each read of a peer with unread output."""
PIPE_CHUNK = 512
"""Most bytes written to a blocking descriptor at once: poll(2) promises room for this many."""


class ChardevError(StratovirtError):
    """A chardev cannot be set up; the text names the option."""


class Chardev:
    """A stream of bytes to and from the host.

    The user sets `on_input` (bytes have come), `room` (how many it can take now) and
    `on_drained` (a slow peer has caught up), and calls `write`; after taking input it calls
    `resume_input`.  A peer that ends its input has left; a user with answers for it sets
    `on_input_ended` and calls `finish` when it has given them.  Where peers come and go,
    `on_connected` and `on_disconnected` say so.  With `takes_descriptors`, file descriptors sent
    along (SCM_RIGHTS) wait in `descriptors`, where they can be sent; those still there when the
    peer leaves are closed.
    """

    chunk = PIPE_CHUNK
    description = ""
    """The filename in query-chardev."""
    waits = False
    """Whether the machine starts only after a peer has connected."""

    def __init__(self, loop: Loop, label: str) -> None:
        self.loop = loop
        self.label = label
        self.on_input: Callable[[bytes], None] = lambda _received: None
        self.room: Callable[[], int] = lambda: 0
        self.on_drained: Callable[[], None] = lambda: None
        self.on_connected: Callable[[], None] = lambda: None
        self.on_disconnected: Callable[[], None] = lambda: None
        self.on_input_ended: Callable[[], None] = self._hung_up
        self.takes_descriptors = False
        self.descriptors: list[int] = []
        self.output_limit = OUTPUT_LIMIT
        self.on_overflow: Callable[[], None] = self._warn_of_loss
        self._input_fd = -1
        self._output_fd = -1
        self._pending = bytearray()
        self._input_watched = False
        self._output_watched = False
        self._dropped = False
        self._input_has_ended = False
        self._is_finishing = False

    @property
    def is_connected(self) -> bool:
        """Whether a peer is connected."""
        return self._output_fd >= 0

    @property
    def is_backed_up(self) -> bool:
        """Whether the peer is so slow that the device should wait for `on_drained`."""
        return len(self._pending) >= OUTPUT_HIGH

    def write(self, content: bytes) -> None:
        """Send bytes to the peer, now or when it reads; never blocks."""
        if self._output_fd < 0:
            return
        if len(self._pending) + len(content) > self.output_limit:
            self.on_overflow()
            return
        self._pending += content
        if len(self._pending) == len(content):
            self._flush()

    def drain(self, patience_ms: int = DRAIN_PATIENCE_MS) -> None:
        """Send pending output while the peer goes on reading; called at the end of the process."""
        if self._pending and self._output_fd >= 0:
            self._flush(patience_ms)

    def open(self) -> None:
        """Start to serve, once a user is attached."""

    def disconnect(self) -> None:
        """Disconnect the peer; a back end with changing peers serves the next."""
        self._hung_up()

    def finish(self) -> None:
        """Disconnect the peer once all output is sent."""
        self._is_finishing = True
        if not self._pending:
            self._hung_up()

    def _warn_of_loss(self) -> None:
        if not self._dropped:
            log.warn(f"the peer of chardev {self.label} does not read; output is dropped")
        self._dropped = True

    def answered(self, _command: str, _accepted: bool) -> None:
        """The user has answered a request; a relayed chardev reports it to the peer's relay."""

    def resume_input(self) -> None:
        """The device has room again."""
        is_waiting = self._input_fd >= 0 and not self._input_watched and not self._input_has_ended
        if is_waiting and self.room() > 0:
            self._watch_input()

    def close(self) -> None:
        """Stop watching and give back the descriptors."""
        self._detach()

    def _attach(self, input_fd: int, output_fd: int) -> None:
        CHARDEV_CONNECTED(self.label)
        log.debug(f"chardev {self.label}: a peer is there")
        self._input_fd, self._output_fd = input_fd, output_fd
        self._dropped = self._input_has_ended = self._is_finishing = False
        if input_fd >= 0:
            self._watch_input()

    def _detach(self) -> None:
        if self._output_fd >= 0:
            CHARDEV_DISCONNECTED(self.label)
            log.debug(f"chardev {self.label}: the peer has gone")
        for fd in {self._input_fd, self._output_fd} - {-1}:
            self.loop.unwatch(fd)
        self._input_fd = self._output_fd = -1
        self._input_watched = self._output_watched = False
        if self._pending:
            self._pending.clear()
            self.on_drained()

    def _hung_up(self) -> None:
        """The peer has disconnected; back ends override this."""
        self._detach()

    def _output_failed(self, _error: OSError) -> None:
        """Writing has failed, which counts as a disconnect unless a back end overrides this."""
        self._hung_up()

    def _drop_output(self) -> None:
        """Drop pending output, and call `on_drained` if there was some."""
        was_waiting = bool(self._pending)
        self._pending.clear()
        self._output_watched = False
        self._rewatch()
        if was_waiting:
            self.on_drained()

    def _events(self) -> dict[int, int]:
        wanted: dict[int, int] = {}
        if self._input_watched:
            wanted[self._input_fd] = READABLE
        if self._pending and self._output_fd >= 0:
            wanted[self._output_fd] = wanted.get(self._output_fd, 0) | WRITABLE
        return wanted

    def _rewatch(self) -> None:
        wanted = self._events()
        for fd in {self._input_fd, self._output_fd} - {-1}:
            if fd in wanted:
                self.loop.watch(fd, wanted[fd], lambda events, fd=fd: self._ready(fd, events))  # type: ignore[misc]
            else:
                self.loop.unwatch(fd)

    def _watch_input(self) -> None:
        self._input_watched = True
        try:
            self._rewatch()
        except PermissionError:
            # A regular file or /dev/null cannot be polled; take what it has, once.
            self._input_watched = False
            self.loop.call_soon(self._read_file)

    def _read_file(self) -> None:
        room = self.room()
        if room > 0 and self._input_fd >= 0:
            received = os.read(self._input_fd, room)
            if received:
                self.on_input(received)
            else:
                self._input_fd = -1

    def _ready(self, fd: int, events: int) -> None:
        # A pipe that is full when its reader goes is never writable, but the write says so.
        if fd == self._output_fd and self._pending and events & (WRITABLE | HANGUP):
            self._flush()
        if fd == self._input_fd and self._input_watched and events & ~WRITABLE:
            self._receive()

    def _receive(self) -> None:
        room = self.room()
        if room <= 0:
            self._input_watched = False
            self._rewatch()
            return
        try:
            received = self._read(room)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        if received:
            self.on_input(received)
        else:
            self._input_ended()

    def _input_ended(self) -> None:
        self._input_has_ended, self._input_watched = True, False
        self._rewatch()
        self.on_input_ended()

    def _read(self, size: int) -> bytes:
        return os.read(self._input_fd, size)

    def _flush(self, patience_ms: int = 0) -> None:
        poller = select.poll()
        poller.register(self._output_fd, select.POLLOUT)
        while self._pending and poller.poll(patience_ms):
            try:
                count = os.write(self._output_fd, self._pending[: self.chunk])
            except BlockingIOError:
                break
            except OSError as error:
                self._output_failed(error)
                return
            del self._pending[:count]
        self._rewatch_output()

    def _rewatch_output(self) -> None:
        # The common case, all sent and nothing watched for it, costs no system call.
        if self._pending or self._output_watched:
            was_watched, self._output_watched = self._output_watched, bool(self._pending)
            self._rewatch()
            if was_watched and not self._output_watched:
                self.on_drained()
                if self._is_finishing:
                    self._hung_up()
