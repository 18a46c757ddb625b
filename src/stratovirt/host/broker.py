"""The broker: a helper process that keeps the rights which a locked-down machine gives up.

It accepts the monitors' clients, opens the files that they name for the machine, and removes
sockets, pidfile and unfinished snapshots after any end of the machine.
"""

from __future__ import annotations

import _thread
import contextlib
import gc
import os
import select
import signal
import socket

from stratovirt._native.thread_name import name_this_thread
from stratovirt.config.chardev import SocketChardev
from stratovirt.config.net import VhostUser
from stratovirt.errors import StratovirtError
from stratovirt.host import wire
from stratovirt.host.grants import Grants, Witness
from stratovirt.host.line import BrokerLine
from stratovirt.host.relay import Relay
from stratovirt.runtime import log, signals
from stratovirt.runtime.loop import READABLE, Loop
from stratovirt.runtime.process import Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from stratovirt.chardev.backend import Chardev
    from stratovirt.config.vm_config import VmConfig
    from stratovirt.host.request import Kept, Request

    Answer = tuple[dict[str, object], list[int]]

NAME = "stratovirt-brk"
NEVER_KILLED = -1000
"""The oom_score_adj (proc(5)) that exempts from the OOM killer; setting it takes privileges."""
AT_START = ("monitors", "serve", "seal")
"""Requests accepted only before the guest runs, while the machine can be trusted."""
PATIENCE_S = 30.0
"""Time for a machine to end after its `leave` request; freeing guest memory takes a while."""


def start_broker(config: VmConfig) -> BrokerLine:
    """Fork the broker, before there are threads, guest memory or other descriptors to inherit."""
    questions, our_questions = wire.pair()
    news, our_news = wire.pair()
    machine = os.getpid()
    with signals.held():
        if os.fork() == 0:
            try:
                _be_broker(config, our_questions, our_news, machine)
            except Exception as error:
                text = f"stratovirt: the broker process: {type(error).__name__}: {error}\n"
                os.write(2, text.encode(errors="replace"))
            finally:
                os._exit(0)
    our_questions.close()
    our_news.close()
    return BrokerLine(questions, news)


def _outlive_machine() -> None:
    """Exempt the broker from the OOM killer, so that it can clean up after the machine.

    Freeing the machine's memory takes a while, in which the host would kill more processes.
    """
    with (
        contextlib.suppress(OSError),
        open("/proc/self/oom_score_adj", "w", encoding="ascii") as score,
    ):
        score.write(str(NEVER_KILLED))


def _be_broker(
    config: VmConfig, questions: socket.socket, news: socket.socket, machine: int
) -> None:
    # The pages of the machine's objects stay shared: the collector writes to those it looks at.
    gc.freeze()
    gc.enable()
    # Signals are ignored: a terminal sends them to both, and the broker must end last.
    signals.ignore()
    signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    _outlive_machine()
    kept = sorted({0, 1, 2, questions.fileno(), news.fileno()} | log.descriptors())
    for low, high in zip(kept, [*kept[1:], 1 << 30], strict=True):
        os.closerange(low + 1, high)
    machine_fd = os.pidfd_open(machine)
    if os.getppid() != machine:
        # The machine has ended already, and its process id may have been reused.
        return
    name_this_thread(NAME)
    # The machine's own clean-up stays with the machine.
    Broker(Process(), config, questions, news, machine_fd).serve()


class Broker:
    """Answers the requests of one machine, the process of the pidfd `machine`."""

    def __init__(
        self,
        process: Process,
        config: VmConfig,
        questions: socket.socket,
        news: socket.socket,
        machine: int,
    ) -> None:
        self._process, self._config = process, config
        self._questions, self._news = questions, news
        self._machine = machine
        self._has_left = False
        self._loop = Loop(_thread.RLock())
        self._grants = _first_grants(config)
        self._chardevs: list[Chardev] = []
        self._relays: list[Relay] = []
        self._kept: Kept | None = None
        """What was opened and is neither committed nor discarded: the machine has one at most."""
        self._is_sealed = False

    def serve(self) -> None:
        """Serve until the machine has ended or sent `leave`, then clean up.

        A machine that only closes its connection may run on, so clean-up waits for its end.  After
        `leave` the machine waits for the clean-up and is killed unless it ends in PATIENCE_S.
        """
        self._loop.watch(self._questions.fileno(), READABLE, self._asked)
        self._loop.watch(self._machine, READABLE, lambda _events: self._loop.stop())
        try:
            self._loop.run()
        finally:
            self._clear_away()
            self._questions.close()
        if self._has_left:
            self._see_it_end()

    def _see_it_end(self) -> None:
        poller = select.poll()
        poller.register(self._machine, select.POLLIN)
        if not poller.poll(PATIENCE_S * 1000):
            signal.pidfd_send_signal(self._machine, signal.SIGKILL)

    def _clear_away(self) -> None:
        self._finish_relays()
        if self._kept is not None:
            self._kept.discard()
        self._process.cleanup.run_all()

    def _asked(self, _events: int) -> None:
        try:
            question, fds = wire.receive(self._questions)
            for fd in fds:
                os.close(fd)
            answer, given = self._answer(str(question.pop("ask", "")), question)
        except EOFError:
            self._hung_up()
            return
        except OSError as error:
            answer, given = {"errno": error.errno}, []
        except StratovirtError as error:
            answer, given = {"error": str(error)}, []
        except Exception as error:
            # A compromised machine may send any message.
            answer, given = {"error": f"the broker does not understand: {error}"}, []
        try:
            wire.send(self._questions, answer, given)
        except OSError:
            self._hung_up()
        for fd in given:
            os.close(fd)

    def _hung_up(self) -> None:
        self._loop.unwatch(self._questions.fileno())
        self._finish_relays()

    def _finish_relays(self) -> None:
        while self._relays:
            self._relays.pop(0).finish()

    def _answer(self, question: str, details: dict[str, Any]) -> Answer:
        handler = _ANSWERS.get(question)
        if handler is None:
            raise ValueError(f"no question {question!r}")
        if self._is_sealed and question in AT_START:
            raise ValueError(f"{question!r} comes too late")
        return handler(self, **details)

    def _open(self, kind: str, fields: object) -> Answer:
        """Open the request of these fields if a client has named it."""
        if not isinstance(fields, dict):
            raise ValueError("a request needs its fields")
        request = self._grants.take(kind, fields)
        if request is None:
            return {"unnamed": True}, []
        return self._opened(request)

    def _opened(self, request: Request[Any]) -> Answer:
        opened = request.open(str(os.getppid()))
        if opened.kept is not None:
            if self._kept is not None:
                opened.kept.discard()
                for fd in opened.fds:
                    os.close(fd)
                raise StratovirtError(f"{request}: another {request.kind} is being written")
            self._kept = opened.kept
        return {"fields": opened.fields}, opened.fds

    def _monitors(self) -> Answer:
        from stratovirt.chardev.open import make_chardev
        from stratovirt.host.access import HostAccess

        for number, monitor in enumerate(self._config.monitors):
            assert monitor.chardev is not None
            chardev = make_chardev(
                self._process,
                self._loop,
                monitor.chardev,
                HostAccess(),
                self._quit,
                monitor.source,
            )
            self._chardevs.append(chardev)
            self._relays.append(Relay(number, chardev, Witness(self._grants), self._news))
        return {"descriptions": [chardev.description for chardev in self._chardevs]}, []

    def _quit(self) -> None:
        wire.send(self._news, {"quit": True})

    def _serve(self) -> Answer:
        for chardev in self._chardevs:
            chardev.open()
        return {}, []

    def _seal(self, removals: list[tuple[str, int, int]], detached: bool) -> Answer:
        """Take over the files to be removed at exit, and end the time of AT_START requests."""
        self._is_sealed = True
        for path, device, inode in removals:
            self._process.cleanup.remove_at_exit(path, (device, inode))
        if detached:
            null = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(null, stream)
            os.close(null)
        return {}, []

    def _answered(self, monitor: int, number: int, accepted: bool) -> Answer:
        self._relays[monitor].witness.answered(number, accepted=accepted)
        return {}, []

    def _leave(self) -> Answer:
        self._has_left = True
        self._loop.stop()
        return {}, []

    def _module(self, name: str) -> Answer:
        from stratovirt.host.modules import open_module

        is_package, fd = open_module(name)
        return {"is_package": is_package}, [fd]

    def _commit(self) -> Answer:
        if self._kept is not None:
            self._kept.commit()
            self._kept = None
        return {}, []

    def _discard(self) -> Answer:
        if self._kept is not None:
            kept, self._kept = self._kept, None
            kept.discard()
        return {}, []


_ANSWERS: dict[str, Callable[..., Answer]] = {
    "monitors": Broker._monitors, "serve": Broker._serve, "seal": Broker._seal,
    "leave": Broker._leave, "open": Broker._open, "commit": Broker._commit,
    "discard": Broker._discard, "module": Broker._module, "answered": Broker._answered,
}  # fmt: skip


def _first_grants(config: VmConfig) -> Grants:
    """Grants for the chardevs of the command line, which reconnect while the guest runs.

    The chardev of a vhost-user back end may be removed, and its grant ends with it.
    """
    back_ends = {n.chardev for n in config.netdevs.values() if isinstance(n, VhostUser)}
    standing: list[Request[Any]] = []
    chardevs: dict[str, Request[Any]] = {}
    for chardev in [*config.chardevs.values(), *([config.serial] if config.serial else [])]:
        if not isinstance(chardev, SocketChardev) or chardev.server:
            continue
        if chardev.id in back_ends:
            chardevs[chardev.id] = chardev.connection()
        elif chardev.reconnect:
            standing.append(chardev.connection())
    return Grants(standing, chardevs)
