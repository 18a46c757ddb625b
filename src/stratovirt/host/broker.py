"""The broker: a helper process that keeps the rights which a locked-down machine gives up.

It accepts the monitors' clients, opens the files that they name for the machine, and removes
sockets, pidfile and unfinished snapshots after any end of the machine.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import select
import signal
import socket

from stratovirt.config.chardev import SocketChardev
from stratovirt.config.net import VhostUser
from stratovirt.errors import StratovirtError
from stratovirt.host import grants, wire
from stratovirt.host.grants import Grants, Witness
from stratovirt.host.line import BrokerLine
from stratovirt.host.relay import Relay
from stratovirt.runtime import cleanup, log, signals
from stratovirt.runtime.loop import READABLE, Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from stratovirt.chardev.backend import Chardev
    from stratovirt.config.vm_config import VmConfig
    from stratovirt.snapshot.files import Draft

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
    # Signals are ignored: a terminal sends them to both, and the broker must end last.
    signals.ignore()
    signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    _outlive_machine()
    cleanup.forget()
    kept = sorted({0, 1, 2, questions.fileno(), news.fileno()} | log.descriptors())
    for low, high in zip(kept, [*kept[1:], 1 << 30], strict=True):
        os.closerange(low + 1, high)
    process = os.pidfd_open(machine)
    if os.getppid() != machine:
        # The machine has ended already, and its process id may have been reused.
        return
    with open("/proc/self/comm", "w", encoding="utf-8") as comm:
        comm.write(NAME)
    Broker(config, questions, news, process).serve()


class Broker:
    """Answers the requests of one machine, the process of the pidfd `machine`."""

    def __init__(
        self, config: VmConfig, questions: socket.socket, news: socket.socket, machine: int
    ) -> None:
        self._config, self._questions, self._news = config, questions, news
        self._machine = machine
        self._has_left = False
        self._loop = Loop(_thread.RLock())
        self._grants = _first_grants(config)
        self._chardevs: list[Chardev] = []
        self._relays: list[Relay] = []
        self._draft: Draft | None = None
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
        if self._draft is not None:
            self._draft.discard()
        cleanup.run_all()

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

    def _require(self, kind: str, *what: object) -> None:
        if not self._grants.take(kind, *what):
            name = what[0] if what else kind
            raise StratovirtError(f"{name}: no client of a monitor has named it")

    def _monitors(self) -> Answer:
        from stratovirt.chardev.open import make_chardev
        from stratovirt.host.access import HostAccess

        for number, monitor in enumerate(self._config.monitors):
            assert monitor.chardev is not None
            chardev = make_chardev(
                self._loop, monitor.chardev, HostAccess(), self._quit, monitor.source
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
            cleanup.remove_at_exit(path, (device, inode))
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

    def _image(self, path: str, source: str, readonly: bool, direct: bool) -> Answer:
        from stratovirt.block.image_files import open_image

        self._require(grants.IMAGE, path, readonly, direct)
        files = open_image(
            path, source, readonly=readonly, direct=direct, machine=str(os.getppid())
        )
        found: dict[str, object] = {
            "size": files.size,
            "direct_align": files.direct_align,
            "can_discard": files.can_discard,
            "block_size": files.block_size,
        }
        return found, files.fds

    def _tap(self, name: str, queues: int, source: str) -> Answer:
        from stratovirt.net.tap_queues import open_queues

        self._require(grants.TAP, name, queues)
        return {}, open_queues(name, queues, source)

    def _vhost_net(self) -> Answer:
        from stratovirt.host.access import VHOST_NET

        self._require(grants.VHOST_NET)
        return {}, [os.open(VHOST_NET, os.O_RDWR | os.O_CLOEXEC)]

    def _vfio(self, host: str, source: str, known: list[str], has_container: bool) -> Answer:
        from stratovirt.vfio.host import open_vfio

        self._require(grants.VFIO, host)
        files = open_vfio(host, source, known=known, has_container=has_container)
        fds = [fd for fd in (files.group_fd, files.container_fd) if fd >= 0]
        return {"number": files.number}, fds

    def _unix(self, path: str) -> Answer:
        from stratovirt.runtime.sockets import connect_unix

        self._require(grants.UNIX, path)
        return {}, [connect_unix(path).detach()]

    def _tcp(self, host: str, port: int) -> Answer:
        from stratovirt.runtime.sockets import begin_tcp

        self._require(grants.TCP, host, port)
        # The machine waits for the connections, so the next request is not delayed.
        return {}, [peer.detach() for peer in begin_tcp(host, port)]

    def _open_draft(self, place: str, memory_bytes: int) -> Answer:
        from stratovirt.snapshot.files import Draft

        self._require(grants.DRAFT, place)
        if self._draft is not None:
            raise StratovirtError(f"{place}: another snapshot is being written")
        self._draft = Draft(place, memory_bytes)
        return {}, [os.dup(self._draft.memory_fd), os.dup(self._draft.state_fd)]

    def _commit(self) -> Answer:
        if self._draft is not None:
            self._draft.commit()
            self._draft = None
        return {}, []

    def _discard(self) -> Answer:
        if self._draft is not None:
            draft, self._draft = self._draft, None
            draft.discard()
        return {}, []


_ANSWERS: dict[str, Callable[..., Answer]] = {
    "monitors": Broker._monitors, "serve": Broker._serve, "seal": Broker._seal,
    "leave": Broker._leave, "image": Broker._image, "tap": Broker._tap,
    "vhost-net": Broker._vhost_net, "vfio": Broker._vfio, "unix": Broker._unix,
    "tcp": Broker._tcp, "draft": Broker._open_draft, "commit": Broker._commit,
    "discard": Broker._discard, "module": Broker._module, "answered": Broker._answered,
}  # fmt: skip


def _first_grants(config: VmConfig) -> Grants:
    """Grants for the chardevs of the command line, which reconnect while the guest runs.

    The chardev of a vhost-user back end may be removed, and its grant ends with it.
    """
    back_ends = {n.chardev for n in config.netdevs.values() if isinstance(n, VhostUser)}
    standing: list[grants.Grant] = []
    chardevs: dict[str, grants.Grant] = {}
    for chardev in [*config.chardevs.values(), *([config.serial] if config.serial else [])]:
        if not isinstance(chardev, SocketChardev) or chardev.server:
            continue
        if chardev.path is None:
            if chardev.reconnect:
                standing.append((grants.TCP, chardev.host or "localhost", chardev.port))
        elif chardev.id in back_ends:
            chardevs[chardev.id] = (grants.UNIX, chardev.path)
        elif chardev.reconnect:
            standing.append((grants.UNIX, chardev.path))
    return Grants(standing, chardevs)
