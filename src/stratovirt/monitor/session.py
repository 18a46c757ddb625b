"""One monitor: greeting, requests, replies and events over a chardev, and limits on its client."""

from __future__ import annotations

import json
import os
import time

from stratovirt import __version__
from stratovirt._native.rate_limit import RateLimit
from stratovirt._native.trace_events import QMP_COMMAND
from stratovirt.chardev.backend import Chardev
from stratovirt.errors import StratovirtError
from stratovirt.monitor.later import Later
from stratovirt.qmp.errors import QmpError
from stratovirt.qmp.framing import REQUEST_LIMIT, Framer, TooLong
from stratovirt.qmp.request import command_of, decode
from stratovirt.runtime.descriptors import DescriptorError, close_on_exec
from stratovirt.runtime.faults import reason
from stratovirt.runtime.log import Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from stratovirt.monitor.registry import Command
    from stratovirt.vm import Vm

log = Log(__name__)

QEMU_VERSION = {"major": 5, "minor": 0, "micro": 1}
"""The QEMU version reported to management tools, which choose their protocol by it."""
REPLY_LIMIT = 4 << 20
"""Most bytes kept for a client that does not read; beyond it the client is disconnected."""
COMMANDS_PER_SECOND = 100
"""Further commands are not refused but read later; the client's socket fills up meanwhile."""
COMMANDS_A_TURN = 4
"""Most commands in one loop callback: an answer may take milliseconds and delay other events."""
NS_PER_SECOND = 1_000_000_000
RECEIVE = 65536
KVM_DEVICE = "/dev/kvm"
MOST_NAMED_DESCRIPTORS = 64
MOST_EARLY_EVENTS = 64
"""Most events kept for a client that has not sent a command yet; older ones are dropped."""
NEGOTIATION = "qmp_capabilities"


def version() -> dict[str, object]:
    """The version in the greeting and in query-version."""
    return {"qemu": QEMU_VERSION, "package": f"StratoVirt-{__version__}"}


class _Request:
    """Name, id and client of a request, for its reply."""

    def __init__(self) -> None:
        self.name = ""
        self.id: dict[str, object] = {}
        self.client: int | None = None
        """Number of the client that waits for a deferred answer; None until it is deferred."""


class Session:
    """Serves one client after the other on `chardev`.

    `load_commands` returns all commands by name; it is first called when a client connects.
    """

    def __init__(
        self,
        vm: Vm,
        chardev: Chardev,
        load_commands: Callable[[], Mapping[str, Command]],
        *,
        pretty: bool = False,
    ) -> None:
        self.vm = vm
        self.chardev = chardev
        self._load_commands = load_commands
        self._indent = 4 if pretty else None
        self._limit = RateLimit(COMMANDS_PER_SECOND, NS_PER_SECOND, COMMANDS_PER_SECOND)
        self._waiting: list[bytes | TooLong] = []
        self._is_held = False
        self._is_awaiting = False
        """Whether a deferred answer (Later) is pending."""
        self._client = 0
        """Number of the current client: a deferred answer goes only to the client that asked."""
        self._has_said_all = False
        self._framer = Framer()
        self._early_events: list[dict[str, object]] | None = None
        """Events since the greeting, while the client has not sent a command."""
        self._gathered: list[bytes] | None = None
        """Events during a command, sent in one write with its reply; None between commands."""
        self._named: dict[str, int] = {}
        # Checked now, since a locked-down machine cannot.
        self.host_has_kvm = os.access(KVM_DEVICE, os.R_OK | os.W_OK)
        chardev.on_input = self._received
        chardev.room = lambda: 0 if self._waiting or self._is_awaiting else RECEIVE
        chardev.takes_descriptors = True
        chardev.output_limit = REPLY_LIMIT
        chardev.on_overflow = self._client_does_not_read
        chardev.on_connected = self._connected
        chardev.on_disconnected = self._disconnected
        chardev.on_input_ended = self._client_has_said_all

    def send_event(self, name: str, content: dict[str, object] | None = None) -> None:
        """Send an event to the client; without a client it is dropped."""
        now = time.time_ns() // 1000
        event: dict[str, object] = {
            "event": name,
            "timestamp": {"seconds": now // 1_000_000, "microseconds": now % 1_000_000},
        }
        if content is not None:
            event["data"] = content
        if self._early_events is None:
            self._send(event)
        else:
            # A client takes the first message after the greeting for the answer to its first.
            self._early_events = [*self._early_events[1 - MOST_EARLY_EVENTS :], event]

    def _send_early_events(self) -> None:
        events, self._early_events = self._early_events, None
        for event in events or []:
            self._send(event)

    def name_descriptor(self, name: str) -> None:
        """Keep the file descriptor that came with this request as `name`; raises QmpError."""
        received = self.chardev.descriptors
        if not received:
            raise QmpError("no file descriptor was sent along (SCM_RIGHTS)")
        if name not in self._named and len(self._named) == MOST_NAMED_DESCRIPTORS:
            raise QmpError(f"{MOST_NAMED_DESCRIPTORS} descriptors have names; close some first")
        fd = received.pop(0)
        try:
            close_on_exec(fd)
        except DescriptorError:
            os.close(fd)
            raise QmpError(
                "the file descriptor was opened with O_PATH: nothing can be done with it"
            ) from None
        if name in self._named:
            os.close(self._named[name])
        self._named[name] = fd

    def take_descriptors(self, names: Sequence[str]) -> list[int]:
        """Hand the named descriptors to the caller, all or none; raises QmpError."""
        for name in names:
            if name not in self._named:
                raise QmpError(f"no file descriptor is called '{name}'; getfd names one")
            if names.count(name) > 1:
                raise QmpError(f"the file descriptor '{name}' is named twice")
        return [self._named.pop(name) for name in names]

    def close_descriptors(self) -> None:
        """Close the named descriptors that no command has taken."""
        for fd in self._named.values():
            os.close(fd)
        self._named.clear()

    def close(self) -> None:
        """Send the remaining output, as far as the client reads, and close its descriptors."""
        self.chardev.drain()
        self.close_descriptors()

    def _connected(self) -> None:
        self._load_commands()
        self._framer = Framer()
        self._client += 1
        self._has_said_all = False
        self._early_events = []
        self._send({"QMP": {"version": version(), "capabilities": []}})

    def _client_does_not_read(self) -> None:
        log.warn("the QMP client does not read its replies; it is disconnected")
        # Later: the chardev is in the middle of a write.
        self.vm.loop.call_soon(self.chardev.disconnect)

    def _send(self, message: dict[str, object]) -> None:
        if not self.chardev.is_connected:
            return
        content = json.dumps(message, indent=self._indent).encode() + b"\r\n"
        if self._gathered is None:
            self.chardev.write(content)
        else:
            self._gathered.append(content)

    def _disconnected(self) -> None:
        self._waiting.clear()
        self.close_descriptors()

    def _received(self, received: bytes) -> None:
        self._waiting += self._framer.feed(received)
        self._serve_waiting()

    def _serve_waiting(self) -> None:
        """Serve received requests at the limited rate; more input is read when all are served."""
        served = 0
        while self._waiting and not self._is_awaiting:
            now_ns = time.monotonic_ns()
            if served == COMMANDS_A_TURN:
                self._wait_until(now_ns)
                return
            if not self._limit.admits(now_ns):
                self._wait_until(self._limit.ready_at_ns(now_ns))
                return
            served += 1
            frame = self._waiting.pop(0)
            if isinstance(frame, TooLong):
                self.chardev.answered("", False)
                self._send(_error(f"a request is longer than {REQUEST_LIMIT} bytes"))
            else:
                self._serve(frame)
        if self._is_awaiting:
            return
        if self._has_said_all:
            # Deferred, so that the client still gets events caused by its last command.
            self.vm.loop.call_soon(self._finish)
        else:
            self.chardev.resume_input()

    def _client_has_said_all(self) -> None:
        """Handle the client's shutdown of its sending side; it still waits for replies."""
        self._has_said_all = True
        self._serve_waiting()

    def _finish(self) -> None:
        if self._has_said_all:
            self.chardev.finish()

    def _wait_until(self, deadline_ns: int) -> None:
        if not self._is_held:
            self._is_held = True
            self.vm.loop.call_at(deadline_ns, self._held_long_enough)

    def _held_long_enough(self) -> None:
        self._is_held = False
        self._serve_waiting()

    def _serve(self, line: bytes) -> None:
        request = _Request()
        self._answer(request, lambda: self._obey(line, request))

    def _answer(self, request: _Request, action: Callable[[], object]) -> None:
        """Run `action` and send its reply, now or when a deferred answer is complete."""
        # Gathered, so that one read returns the reply and the events before it.
        self._gathered = []
        try:
            reply = self._reply(action)
            if isinstance(reply, Later):
                self._await(request, reply)
            elif request.client in (None, self._client):
                self.chardev.answered(request.name, "return" in reply)
                self._send(reply | request.id)
                self._send_early_events()
        finally:
            said, self._gathered = self._gathered, None
            self.chardev.write(b"".join(said))

    def _await(self, request: _Request, later: Later) -> None:
        """Wait for a deferred answer; only this client's next commands wait with it."""
        self._is_awaiting = True
        request.client = self._client

        def done(finish: Callable[[], object]) -> None:
            self._is_awaiting = False
            self._answer(request, finish)
            self._serve_waiting()

        later.begin(self.vm.loop, done)

    def _reply(self, action: Callable[[], object]) -> dict[str, object] | Later:
        try:
            result = action()
        except QmpError as error:
            return _error(str(error), error.error_class)
        except Exception as error:
            # Any error of a command becomes its reply, and the machine goes on.
            why = reason(error)
            if not isinstance(error, StratovirtError | OSError):
                log.error(why)
            return _error(why)
        return result if isinstance(result, Later) else {"return": result}

    def _obey(self, line: bytes, request: _Request) -> object:
        content = decode(line)
        if "id" in content:
            request.id = {"id": content["id"]}
        request.name, arguments = command_of(content)
        if request.name != NEGOTIATION:
            self._send_early_events()
        return self._execute(request.name, arguments)

    def _execute(self, name: str, arguments: dict[str, object]) -> object:
        command = self._load_commands().get(name)
        if command is None:
            raise QmpError(f"The command {name[:80]} has not been found", "CommandNotFound")
        QMP_COMMAND(name)
        log.debug(f"command {name}")
        return command.function(self, command.arguments.from_json(arguments, name))


def _error(text: str, error_class: str = "GenericError") -> dict[str, object]:
    return {"error": {"class": error_class, "desc": text}}
