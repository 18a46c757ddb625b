"""The QMP server: greeting, one JSON object a line, events, and the limits on a hostile client."""

from __future__ import annotations

import json
import socket
import time

from stratovirt.config.devices import Qmp
from stratovirt.config.errors import ConfigError
from stratovirt.errors import StratovirtError
from stratovirt.monitor.commands import COMMANDS, version
from stratovirt.monitor.errors import QmpError
from stratovirt.monitor.framing import REQUEST_LIMIT, Framer, TooLong
from stratovirt.runtime.log import Log
from stratovirt.runtime.loop import HANGUP, READABLE, WRITABLE, Loop
from stratovirt.runtime.unix_socket import listen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.vm import Vm

log = Log(__name__)

REPLY_LIMIT = 4 << 20
"""Most bytes kept for a client that does not read; beyond it the client is disconnected."""
COMMANDS_PER_SECOND = 100
MAX_NESTED = 500
"""Most arrays and objects in a request: the parser recurses, and this bounds its stack."""


class LeakyBucket:
    """Admits a number of commands a second, and a burst as large."""

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._level = 0.0
        self._last = time.monotonic()

    def admits(self) -> bool:
        """Whether one more fits now; it is counted if so."""
        now = time.monotonic()
        self._level = max(0.0, self._level - (now - self._last) * self._per_second)
        self._last = now
        if self._level + 1 > self._per_second:
            return False
        self._level += 1
        return True


class QmpServer:
    """Listens on a socket and serves one client after the other."""

    def __init__(self, loop: Loop, vm: Vm, options: Qmp) -> None:
        self._loop = loop
        self._vm = vm
        self._client: socket.socket | None = None
        self._bucket = LeakyBucket(COMMANDS_PER_SECOND)
        try:
            self._listener = listen(options.path)
        except OSError as error:
            raise ConfigError(
                f"-qmp unix:{options.path}: cannot listen there: {error.strerror}"
            ) from error
        self._watch_listener()

    def wait_for_client(self) -> None:
        """Block until the first client is there."""
        self._accept(READABLE)

    def send_event(self, name: str, content: dict[str, object] | None = None) -> None:
        """Tell the client of an event; without a client it is gone."""
        now = time.time_ns() // 1000
        event: dict[str, object] = {
            "event": name,
            "timestamp": {"seconds": now // 1_000_000, "microseconds": now % 1_000_000},
        }
        if content is not None:
            event["data"] = content
        self._send(event)

    def close(self) -> None:
        """Send what the client still takes, and leave."""
        if self._client is not None:
            self._client.settimeout(0.2)
            try:
                self._client.sendall(self._outgoing)
            except OSError as error:
                log.info(f"the client did not take the last events: {error}")
            self._disconnect()
        self._loop.unwatch(self._listener.fileno())
        self._listener.close()

    def _watch_listener(self) -> None:
        self._loop.watch(self._listener.fileno(), READABLE, self._accept)

    def _accept(self, _events: int) -> None:
        self._client, _ = self._listener.accept()
        self._client.setblocking(False)
        self._framer = Framer()
        self._outgoing = bytearray()
        self._loop.unwatch(self._listener.fileno())
        self._loop.watch(self._client.fileno(), READABLE, self._ready)
        self._send({"QMP": {"version": version(), "capabilities": []}})

    def _disconnect(self) -> None:
        if self._client is not None:
            self._loop.unwatch(self._client.fileno())
            self._client.close()
            self._client = None
            self._watch_listener()

    def _send(self, message: dict[str, object]) -> None:
        if self._client is None:
            return
        self._outgoing += json.dumps(message).encode() + b"\r\n"
        if len(self._outgoing) > REPLY_LIMIT:
            log.warn("the QMP client does not read its replies; it is disconnected")
            self._disconnect()
            return
        self._flush()

    def _flush(self) -> None:
        assert self._client is not None
        try:
            sent = self._client.send(self._outgoing)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._disconnect()
            return
        del self._outgoing[:sent]
        events = READABLE | (WRITABLE if self._outgoing else 0)
        self._loop.watch(self._client.fileno(), events, self._ready)

    def _ready(self, events: int) -> None:
        if events & WRITABLE:
            self._flush()
        if events & (READABLE | HANGUP) and self._client is not None:
            self._receive()

    def _receive(self) -> None:
        assert self._client is not None
        try:
            received = self._client.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        if not received:
            self._disconnect()
            return
        for frame in self._framer.feed(received):
            if isinstance(frame, TooLong):
                self._send(_error(f"a request is longer than {REQUEST_LIMIT} bytes"))
            else:
                self._serve(frame)
            if self._client is None:
                return

    def _serve(self, line: bytes) -> None:
        if not self._bucket.admits():
            self._send(
                _error(f"more than {COMMANDS_PER_SECOND} commands a second", "OperationThrottled")
            )
            return
        request_id: dict[str, object] = {}
        try:
            request = _decode(line)
            if "id" in request:
                request_id = {"id": request["id"]}
            reply: dict[str, object] = {"return": self._execute(request)}
        except QmpError as error:
            reply = _error(str(error), error.error_class)
        except StratovirtError as error:
            reply = _error(str(error))
        self._send(reply | request_id)

    def _execute(self, request: dict[str, object]) -> object:
        name = request.get("execute")
        arguments = request.get("arguments", {})
        unknown = set(request) - {"execute", "arguments", "id"}
        if unknown:
            raise QmpError(f"unexpected member '{min(unknown)}' in a request")
        if not isinstance(name, str):
            raise QmpError("a request needs the member 'execute', a string")
        if not isinstance(arguments, dict):
            raise QmpError("'arguments' must be an object")
        command = COMMANDS.get(name)
        if command is None:
            raise QmpError(f"The command {name[:80]} has not been found", "CommandNotFound")
        return command.function(self._vm, command.arguments.from_json(arguments, name))


def _error(text: str, error_class: str = "GenericError") -> dict[str, object]:
    return {"error": {"class": error_class, "desc": text}}


def _decode(line: bytes) -> dict[str, object]:
    if line.count(b"[") + line.count(b"{") > MAX_NESTED:
        raise QmpError(f"a request has more than {MAX_NESTED} arrays and objects")
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise QmpError(f"JSON parse error: {error}") from None
    if not isinstance(request, dict):
        raise QmpError("a request must be a JSON object")
    return request
