"""vhost-user back ends that misbehave: a clear line at the start, a link that goes down later."""

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.board.conftest import Board
from tests.board.pci_driver import PciDriver
from tests.board.test_slots import OFF, PORT, POWER_OFF, Slot
from tests.machine_process import QmpClient, wait_until

Start = Callable[..., Board]
GET_FEATURES, SET_FEATURES, SET_MEM_TABLE, GET_VRING_BASE = 1, 2, 5, 11
SET_VRING_KICK, SET_VRING_CALL = 12, 13
VERSION_1 = 1 << 32
LINK_UP = 1


class Peer:
    """Listens, answers GET_FEATURES with what it is given, and keeps what it is told."""

    def __init__(self, path: Path, answer: bytes | None) -> None:
        self._answer = answer
        self.requests: list[int] = []
        self.fds: list[int] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self.connection: socket.socket | None = None
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connection = connection
            self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        while True:
            try:
                head, fds, _, _ = socket.recv_fds(connection, 12, 8)
                if len(head) < 12:
                    return
                kind, _, size = struct.unpack("<III", head)
                body = connection.recv(size, socket.MSG_WAITALL) if size else b""
                self.requests.append(kind)
                self.fds += fds
                if kind == GET_FEATURES and self._answer is not None:
                    connection.sendall(self._answer)
                if kind == GET_VRING_BASE:
                    connection.sendall(struct.pack("<III", kind, 5, 8) + body)
            except OSError:
                return

    def hang_up(self) -> None:
        """Leave the front end."""
        assert self.connection is not None
        self.connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
        for fd in self.fds:
            os.close(fd)


def number(value: int, kind: int = GET_FEATURES) -> bytes:
    return struct.pack("<IIIQ", kind, 5, 8, value)


@pytest.fixture
def make_peer(tmp_path: Path) -> Iterator[Callable[[bytes | None], Peer]]:
    made: list[Peer] = []

    def make(answer: bytes | None) -> Peer:
        made.append(Peer(tmp_path / "peer", answer))
        return made[-1]

    yield make
    for peer in made:
        peer.close()


def options(tmp_path: Path, *more: str) -> list[str]:
    return [
        "-chardev", f"socket,id=c,path={tmp_path}/peer{''.join(more)}",
        "-netdev", "vhost-user,id=n,chardev=c",
        "-device", "virtio-net-pci,netdev=n,bus=pcie.0,addr=1",
    ]  # fmt: skip


BAD = {
    "silent": (None, "the peer did not answer in 5 seconds"),
    "another's answer": (number(VERSION_1, kind=7), "the peer's answer to request 1 is another's"),
    "long": (struct.pack("<III", 1, 5, 0xFFFF_FFFF), "has 4294967295 bytes, not 8"),
    "old": (number(1), "the back end has no VIRTIO_F_VERSION_1"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_back_end_that_is_none_is_one_line(
    start_board: Start, make_peer: Callable[[bytes | None], Peer], tmp_path: Path, name: str
) -> None:
    answer, complaint = BAD[name]
    make_peer(answer)
    machine = start_board(*options(tmp_path), board="q35,mem-share=on").machine
    assert machine.wait() == 1
    assert len(machine.errors.splitlines()) == 1 and complaint in machine.errors.decode()


def test_memory_must_be_shared(
    start_board: Start, make_peer: Callable[[bytes | None], Peer], tmp_path: Path
) -> None:
    make_peer(number(VERSION_1))
    machine = start_board(*options(tmp_path), board="q35").machine
    assert machine.wait() == 1
    assert "the back end cannot see guest memory; give -machine mem-share=on" in (
        machine.errors.decode()
    )


def test_nobody_there_is_one_line(start_board: Start, tmp_path: Path) -> None:
    machine = start_board(*options(tmp_path), board="q35,mem-share=on").machine
    assert machine.wait() == 1
    assert "cannot use the back end at" in machine.errors.decode()


def test_the_link_follows_the_back_end(
    start_board: Start, make_peer: Callable[[bytes | None], Peer], tmp_path: Path
) -> None:
    peer = make_peer(number(VERSION_1))
    board = start_board(*options(tmp_path, ",reconnect=1"), board="q35,mem-share=on")
    driver = PciDriver(board.cpu, 1)

    def link() -> int:
        return driver.get(0x2006, 2) & LINK_UP

    assert link() == LINK_UP
    driver.bring_up(2)
    wait_until(lambda: peer.requests.count(SET_VRING_KICK) == 2, "both rings are handed over")
    assert peer.requests.count(SET_VRING_CALL) == 2 and SET_MEM_TABLE in peer.requests
    peer.requests.clear()
    peer.hang_up()
    wait_until(lambda: link() == 0, "the link is down")
    # Whoever comes next gets everything anew; the clock of this board moves by hand.
    board.cpu.ask("clock_step 2000000000")
    wait_until(lambda: link() == LINK_UP, "the link is up")
    wait_until(lambda: peer.requests.count(SET_VRING_KICK) == 2, "both rings are handed over")
    assert SET_FEATURES in peer.requests and SET_MEM_TABLE in peer.requests


class Acknowledging(Peer):
    """Says that it has done what it is told; while it is not `sound` it leaves instead."""

    sound = True
    silent = False
    connections = 0

    def _talk(self, connection: socket.socket) -> None:
        self.connections += 1
        while len(head := connection.recv(12, socket.MSG_WAITALL)) == 12:
            kind, flags, size = struct.unpack("<III", head)
            body = connection.recv(size, socket.MSG_WAITALL) if size else b""
            self.requests.append(kind)
            if kind == GET_FEATURES:
                connection.sendall(number(VERSION_1 | 1 << 30))
            elif kind == 15:  # GET_PROTOCOL_FEATURES: REPLY_ACK
                connection.sendall(number(1 << 3, kind=15))
            elif kind == GET_VRING_BASE:
                connection.sendall(struct.pack("<III", kind, 5, 8) + body)
            elif flags & 8 and self.silent:
                continue
            elif flags & 8 and not self.sound:
                break
            elif flags & 8:
                connection.sendall(number(0, kind=kind))
        connection.close()


def test_a_peer_that_connects_and_never_serves_is_tried_ever_more_rarely(
    start_board: Start, tmp_path: Path
) -> None:
    peer = Acknowledging(tmp_path / "peer", None)
    board = start_board(*options(tmp_path, ",reconnect=1"), board="q35,mem-share=on")
    PciDriver(board.cpu, 1).bring_up(2)

    def wait_for(connections: int, losses: int) -> None:
        def came() -> bool:
            board.machine._drain()
            lost = board.machine.errors.count(b"the back end is lost")
            return (peer.connections, lost) == (connections, losses)

        wait_until(came, f"{connections} connections of which {losses} were lost")

    wait_until(lambda: peer.requests.count(SET_VRING_KICK) == 2, "both rings are handed over")
    peer.sound = False
    peer.hang_up()
    wait_for(1, 1)
    board.cpu.ask("clock_step 1000000000")
    wait_for(2, 2)
    board.cpu.ask("clock_step 1999999999")
    time.sleep(0.3)
    wait_for(2, 2)
    board.cpu.ask("clock_step 1")
    wait_for(3, 3)
    peer.sound = True
    peer.requests.clear()
    board.cpu.ask("clock_step 4000000000")
    wait_until(lambda: peer.requests.count(SET_VRING_KICK) == 2, "it serves again")
    # What served is looked for again after a second.
    peer.hang_up()
    wait_for(4, 4)
    board.cpu.ask("clock_step 1000000000")
    wait_for(5, 4)
    assert board.machine.terminate() == 0
    peer.close()


def test_a_peer_that_falls_silent_when_the_driver_starts_holds_up_nobody(
    start_board: Start, tmp_path: Path
) -> None:
    peer = Acknowledging(tmp_path / "peer", None)
    board = start_board(
        *options(tmp_path), "-qmp", f"unix:{tmp_path}/qmp,server,nowait", board="q35,mem-share=on"
    )
    driver = PciDriver(board.cpu, 1)
    peer.silent = True
    with QmpClient(tmp_path / "qmp") as client:
        driver.bring_up(2)
        assert client.cmd("query-status")["running"]
        assert driver.get(0x2006, 2) & LINK_UP, "nobody has waited for the peer yet"
        wait_until(lambda: not driver.get(0x2006, 2) & LINK_UP, "the link is down")
    assert board.machine.terminate() == 0
    assert b"the back end is lost: the peer did not answer in 15 seconds" in board.machine.errors
    peer.close()


def chardev(path: Path, **more: object) -> dict[str, object]:
    address = {"type": "unix", "data": {"path": str(path)}}
    return {"id": "c", "backend": {"type": "socket", "data": {"addr": address, **more}}}


def test_a_back_end_is_added_and_removed_through_qmp(
    start_board: Start, make_peer: Callable[[bytes | None], Peer], tmp_path: Path
) -> None:
    peer = make_peer(number(VERSION_1))
    start_board(
        "-device", "pcie-root-port,port=0x1,addr=0x1,bus=pcie.0,id=port1",
        "-qmp", f"unix:{tmp_path}/qmp,server,nowait", board="q35,mem-share=on",
    )  # fmt: skip
    with QmpClient(tmp_path / "qmp") as client:

        def refused(match: str, command: str, **arguments: object) -> None:
            with pytest.raises(Exception, match=match):
                client.cmd(command, **arguments)

        vhost = {"type": "vhost-user", "id": "n", "chardev": "c"}
        refused("there is no chardev c for a back end", "netdev_add", **vhost)
        refused("server must be false", "chardev-add", **chardev(tmp_path / "peer"))
        client.cmd("chardev-add", **chardev(tmp_path / "nobody", server=False))
        refused("another chardev has the id c", "chardev-add", **chardev(Path("/x"), server=False))
        refused("cannot use the back end at", "netdev_add", **vhost)
        client.cmd("chardev-remove", id="c")
        refused("there is no chardev c for a back end", "chardev-remove", id="c")
        client.cmd("chardev-add", **chardev(tmp_path / "peer", server=False))
        client.cmd("netdev_add", **vhost)
        client.cmd("device_add", driver="virtio-net-pci", id="d", netdev="n", bus="port1")
        refused("in use by n", "chardev-remove", id="c")
        refused("in use by d", "netdev_del", id="n")
        assert GET_FEATURES in peer.requests


def test_a_back_end_of_the_command_line_is_removed_and_added_anew(
    start_board: Start, make_peer: Callable[[bytes | None], Peer], tmp_path: Path
) -> None:
    make_peer(number(VERSION_1))
    board = start_board(
        *PORT,
        *options(tmp_path)[:-1],
        "virtio-net-pci,netdev=n,id=d,bus=port,addr=0x0",
        "-qmp",
        f"unix:{tmp_path}/qmp,server,nowait",
        board="q35,mem-share=on",
    )
    with QmpClient(tmp_path / "qmp") as client:
        for turn in range(2):
            with pytest.raises(Exception, match="in use by n"):
                client.cmd("chardev-remove", id="c")
            if turn == 0:
                client.cmd("device_del", id="d")
                Slot(board.cpu).control = POWER_OFF | OFF
                assert client.wait_event("DEVICE_DELETED")["data"]["device"] == "d"
            client.cmd("netdev_del", id="n")
            client.cmd("chardev-remove", id="c")
            client.cmd("chardev-add", **chardev(tmp_path / "peer", server=False))
            client.cmd("netdev_add", type="vhost-user", id="n", chardev="c")


def test_microvm_has_no_such_cards(start_board: Start, tmp_path: Path) -> None:
    start_board("-qmp", f"unix:{tmp_path}/qmp,server,nowait")
    with QmpClient(tmp_path / "qmp") as client:
        client.cmd("chardev-add", **chardev(tmp_path / "peer", server=False))
        with pytest.raises(Exception, match="microvm has no vhost-user cards"):
            client.cmd("netdev_add", type="vhost-user", id="n", chardev="c")
