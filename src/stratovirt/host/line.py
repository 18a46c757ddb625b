"""The machine's end of the connection to its broker."""

from __future__ import annotations

import _thread
import os
import socket
from contextlib import suppress

from stratovirt.chardev.relayed import RelayedChardev
from stratovirt.errors import StratovirtError
from stratovirt.host import wire
from stratovirt.host.grants import NAMING
from stratovirt.host.request import Opened
from stratovirt.runtime.log import Log
from stratovirt.runtime.loop import READABLE, Loop
from stratovirt.runtime.sockets import LostDescriptorsError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from stratovirt.config.vm_config import MonitorConfig
    from stratovirt.host.request import Request

log = Log(__name__)


class BrokerError(StratovirtError):
    """The broker refused a request or has died; the text is for the user."""


class KeptByBroker:
    """The unfinished resource that the broker keeps."""

    def __init__(self, line: BrokerLine) -> None:
        self._line = line

    def commit(self) -> None:
        """Move it to its final place; raises BrokerError or OSError."""
        self._line.ask("commit")

    def discard(self) -> None:
        """Remove it."""
        self._line.ask("discard")


class BrokerLine:
    """Requests to the broker, one at a time, and its messages about the monitors' clients."""

    def __init__(self, questions: socket.socket, news: socket.socket) -> None:
        self._questions, self._news = questions, news
        self._lock = _thread.allocate_lock()
        self._monitors: list[RelayedChardev] = []
        self._loop: Loop | None = None

    def ask(self, question: str, /, **details: object) -> tuple[dict[str, Any], list[int]]:
        """Send a request; returns the answer and its file descriptors. From any thread.

        Raises BrokerError or OSError.
        """
        with self._lock:
            try:
                wire.send(self._questions, {"ask": question, **details})
                answer, fds = wire.receive(self._questions)
            except LostDescriptorsError:
                raise
            except (EOFError, OSError) as error:
                raise BrokerError("the broker process has died; nothing can be opened") from error
        if "errno" in answer:
            number = answer["errno"]
            assert isinstance(number, int)
            raise OSError(number, os.strerror(number))
        if "error" in answer:
            raise BrokerError(str(answer["error"]))
        return answer, fds

    def open(self, request: Request[Any]) -> Opened:
        """Have the broker open a request; raises BrokerError or OSError."""
        answer, fds = self.ask("open", kind=request.kind, fields=request.fields)
        if "unnamed" in answer:
            raise BrokerError(f"{request}: no client of a monitor has named it")
        return Opened(fds, answer["fields"], KeptByBroker(self))

    def open_monitors(self, loop: Loop, monitors: Sequence[MonitorConfig]) -> list[RelayedChardev]:
        """A chardev for each monitor, whose clients the broker accepts; raises BrokerError."""
        descriptions = self.ask("monitors")[0]["descriptions"]
        for monitor, description in zip(monitors, descriptions, strict=True):
            assert monitor.chardev is not None
            waits = bool(getattr(monitor.chardev, "waits", False))
            relayed = RelayedChardev(loop, monitor.chardev.id, description, waits)
            number = len(self._monitors)
            relayed.on_answered = lambda *what, number=number: self._answered(number, *what)
            self._monitors.append(relayed)
        self._loop = loop
        return self._monitors

    def _answered(self, monitor: int, number: int, command: str, accepted: bool) -> None:
        """Report an answered command to the broker, which ends its grants."""
        if command not in NAMING:
            return
        # A broker that has died opens nothing anyway.
        with suppress(BrokerError):
            self.ask("answered", monitor=monitor, number=number, accepted=accepted)

    def serve(self, quit_requested: Callable[[], None]) -> None:
        """Have the broker accept clients; `quit_requested` is called when a user quits."""
        self._quit_requested = quit_requested
        if self._loop is not None:
            self._loop.watch(self._news.fileno(), READABLE, self._heard)
        self.ask("serve")

    def _heard(self, _events: int) -> None:
        try:
            message, fds = wire.receive(self._news)
        except LostDescriptorsError as error:
            log.warn(f"a monitor's client cannot be served: {error.strerror}")
            return
        except EOFError:
            assert self._loop is not None
            self._loop.unwatch(self._news.fileno())
            log.error("the broker process has died: there are no monitors any more")
            return
        if "client" in message:
            number, requests = message["client"], message["requests"]
            assert isinstance(number, int) and isinstance(requests, int)
            self._monitors[number].receive(fds[0], requests)
        else:
            self._quit_requested()

    def close(self) -> None:
        """Send `leave`; returns when the broker has cleaned up."""
        if self._loop is not None:
            self._loop.unwatch(self._news.fileno())
        self._news.close()
        try:
            self.ask("leave")
            # The broker closes the connection afterwards; an earlier answer may arrive first.
            while True:
                wire.receive(self._questions)
        except (BrokerError, EOFError, OSError):
            pass
        self._questions.close()
