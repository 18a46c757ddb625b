"""What a vhost-user back end writes is in the log of written pages, whoever connects and when."""

import fcntl
import json
import mmap
import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from qemu.qmp.qmp_client import ExecuteError

from tests.board.conftest import Board
from tests.board.pci_driver import PciDriver
from tests.board.test_vhost_user import Peer, options
from tests.machine_process import PATIENCE, QmpClient, wait_until
from tests.ring import DriverRing

Start = Callable[..., Board]
GET_FEATURES, SET_FEATURES, SET_MEM_TABLE, SET_LOG_BASE = 1, 2, 5, 6
SET_VRING_ADDR, GET_VRING_BASE, SET_VRING_KICK = 9, 11, 12
GET_PROTOCOL_FEATURES = 15
VERSION_1, F_PROTOCOL_FEATURES, F_LOG_ALL = 1 << 32, 1 << 30, 1 << 26
LOG_SHMFD, REPLY_ACK = 1 << 1, 1 << 3
NEED_REPLY = 8
F_SEAL_FUTURE_WRITE = 0x10
"""linux/fcntl.h; Python has no name for it."""
PAGE = 4096
SILENCE_S = 5
"""How long a peer may be silent about its log."""
USED, BUFFER = 0x30_0000, 0x40_0000
ALL = VERSION_1 | F_PROTOCOL_FEATURES | F_LOG_ALL


class BackEnd(Peer):
    """Maps what it is given; `write` stores to guest memory and logs it, if it was told to."""

    def __init__(self, path: Path, offered: int = ALL, protocol: int = LOG_SHMFD | REPLY_ACK):
        self.offered, self.protocol = offered, protocol
        self.log_answer_bytes = 8
        """The length of the answer to SET_LOG_BASE, of which nothing is specified."""
        self.answers_log, self.is_asked = True, False
        self.features = 0
        self.logged_rings: dict[int, int] = {}
        """Guest physical addresses of the used rings whose writes are to be logged."""
        self.rings = 0
        self._log: mmap.mmap | None = None
        self._ram: mmap.mmap | None = None
        self._fds: list[int] = []
        super().__init__(path, None)

    def _talk(self, connection: socket.socket) -> None:
        self.features, self.logged_rings, self.rings, self._log = 0, {}, 0, None
        try:
            while len(head := self._receive(12)) == 12:
                kind, flags, size = struct.unpack("<III", head)
                answer = self._take(kind, self._receive(size))
                if answer is not None or flags & NEED_REPLY:
                    content = bytes(8) if answer is None else answer
                    connection.sendall(struct.pack("<III", kind, 5, len(content)) + content)
        except OSError:
            return

    def _receive(self, size: int) -> bytes:
        assert self.connection is not None
        content = b""
        while len(content) < size:
            part, fds, _, _ = socket.recv_fds(self.connection, size - len(content), 8)
            self._fds += fds
            if not part:
                break
            content += part
        return content

    def _take(self, kind: int, body: bytes) -> bytes | None:
        fds, self._fds = self._fds, []
        answer = None
        if kind == GET_FEATURES:
            answer = struct.pack("<Q", self.offered)
        elif kind == GET_PROTOCOL_FEATURES:
            answer = struct.pack("<Q", self.protocol)
        elif kind == SET_FEATURES:
            (self.features,) = struct.unpack("<Q", body)
        elif kind == SET_MEM_TABLE:
            gpa, size, _, offset = struct.unpack_from("<QQQQ", body, 8)
            assert gpa == 0
            self._ram = mmap.mmap(fds[0], size, offset=offset)
        elif kind == SET_LOG_BASE:
            self.is_asked = True
            size, offset = struct.unpack("<QQ", body)
            self._log = mmap.mmap(fds[0], size, offset=offset)
            with pytest.raises(PermissionError):
                fcntl.fcntl(fds[0], fcntl.F_ADD_SEALS, F_SEAL_FUTURE_WRITE)
            answer = bytes(self.log_answer_bytes) if self.answers_log else None
        elif kind == SET_VRING_ADDR:
            index, flags, _, _, _, log = struct.unpack("<IIQQQQ", body)
            self.logged_rings.pop(index, None)
            if flags & 1:
                self.logged_rings[index] = log
        elif kind == GET_VRING_BASE:
            answer = body
        self.rings += kind == SET_VRING_KICK
        for fd in fds:
            os.close(fd)
        return answer

    def write(self, gpa: int, content: bytes) -> None:
        """Write as a back end does: first the page, then its bit."""
        assert self._ram is not None
        self._ram[gpa : gpa + len(content)] = content
        if self.features & F_LOG_ALL:
            assert self._log is not None
            for page in range(gpa // PAGE, (gpa + len(content) - 1) // PAGE + 1):
                self._log[page // 8] |= 1 << page % 8


@pytest.fixture
def make_back_end(tmp_path: Path) -> Iterator[Callable[..., BackEnd]]:
    made: list[BackEnd] = []

    def make(**capabilities: int) -> BackEnd:
        made.append(BackEnd(tmp_path / "peer", **capabilities))
        return made[-1]

    yield make
    for back_end in made:
        back_end.close()


def collect(board: Board) -> set[int]:
    words = board.cpu.ask("dirty_log_collect").split()
    assert words[0] == "OK", words
    return {int(word, 16) for word in words[1:]}


def bring_up(board: Board, back_end: BackEnd) -> list[DriverRing]:
    rings = PciDriver(board.cpu, 1).bring_up(2, used_at=USED)
    wait_until(lambda: back_end.rings == 2, "both rings are handed over")
    return rings


# QEMU's answers 8 bytes, DPDK's none.
@pytest.mark.parametrize("answer_bytes", [8, 0])
def test_a_back_end_that_serves_logs_from_the_start_to_the_end(
    start_board: Start,
    make_back_end: Callable[..., BackEnd],
    tmp_path: Path,
    answer_bytes: int,
) -> None:
    back_end = make_back_end()
    back_end.log_answer_bytes = answer_bytes
    board = start_board(*options(tmp_path), board="q35,mem-share=on")
    bring_up(board, back_end)
    back_end.write(BUFFER, b"early")
    assert back_end.logged_rings == {}
    for _ in range(2):
        assert board.cpu.ask("dirty_log_start") == "OK"
        # It has answered before the start has.
        assert back_end.features & F_LOG_ALL
        assert back_end.logged_rings == {0: USED, 1: USED + PAGE}
        assert collect(board) == set()
        back_end.write(BUFFER + PAGE - 1, b"packet")
        back_end.write(USED + 2, b"\1")
        assert collect(board) == {BUFFER, BUFFER + PAGE, USED}
        assert collect(board) == set()
        assert board.cpu.ask("dirty_log_stop") == "OK"
        wait_until(lambda: back_end.logged_rings == {}, "it logs no more")
        assert not back_end.features & F_LOG_ALL
    back_end.write(BUFFER, b"late")
    assert board.machine.terminate() == 0


def test_a_driver_that_starts_and_a_back_end_that_returns_while_writes_are_logged(
    start_board: Start, make_back_end: Callable[..., BackEnd], tmp_path: Path
) -> None:
    back_end = make_back_end()
    board = start_board(*options(tmp_path, ",reconnect=1"), board="q35,mem-share=on")
    assert board.cpu.ask("dirty_log_start") == "OK"
    bring_up(board, back_end)
    assert back_end.features & F_LOG_ALL and back_end.logged_rings == {0: USED, 1: USED + PAGE}
    collect(board)
    back_end.write(BUFFER, b"x")
    back_end.hang_up()
    wait_until(lambda: PciDriver(board.cpu, 1).get(0x2006, 2) & 1 == 0, "the link is down")
    back_end.rings = 0
    board.cpu.ask("clock_step 2000000000")
    wait_until(lambda: back_end.rings == 2, "it is back")
    assert back_end.logged_rings == {0: USED, 1: USED + PAGE}
    assert back_end.features & F_LOG_ALL
    back_end.write(BUFFER + 2 * PAGE, b"x")
    assert collect(board) == {BUFFER, BUFFER + 2 * PAGE}, "of the one before and of this one"


@pytest.mark.parametrize(
    "lacking", [{"offered": ALL & ~F_LOG_ALL}, {"protocol": REPLY_ACK}, {"offered": VERSION_1}]
)
def test_a_back_end_without_a_log_serves_and_is_named_by_the_error(
    start_board: Start,
    make_back_end: Callable[..., BackEnd],
    tmp_path: Path,
    lacking: dict[str, int],
) -> None:
    back_end = make_back_end(**lacking)
    board = start_board(*options(tmp_path), board="q35,mem-share=on")
    bring_up(board, back_end)
    assert board.cpu.ask("dirty_log_start") == (
        "ERR dirty_log_start: cannot log writes to memory: "
        "-netdev vhost-user,id=n: the back end cannot log what it writes"
    )
    # A driver may start it all the same.
    back_end.rings = 0
    bring_up(board, back_end)
    assert back_end.logged_rings == {} and not back_end.features & F_LOG_ALL


def test_one_that_loses_its_log_ends_the_log(
    start_board: Start, make_back_end: Callable[..., BackEnd], tmp_path: Path
) -> None:
    back_end = make_back_end()
    board = start_board(*options(tmp_path, ",reconnect=1"), board="q35,mem-share=on")
    bring_up(board, back_end)
    assert board.cpu.ask("dirty_log_start") == "OK"
    back_end.protocol = REPLY_ACK
    back_end.hang_up()
    wait_until(lambda: PciDriver(board.cpu, 1).get(0x2006, 2) & 1 == 0, "the link is down")
    assert board.cpu.ask("dirty_log_collect").startswith("OK"), "nobody writes"
    back_end.rings = 0
    board.cpu.ask("clock_step 2000000000")
    wait_until(lambda: back_end.rings == 2, "it is back")
    assert "the back end cannot log what it writes" in board.cpu.ask("dirty_log_collect")


def test_a_back_end_that_cannot_shorten_the_log_cannot_end_the_machine(
    start_board: Start, make_back_end: Callable[..., BackEnd], tmp_path: Path
) -> None:
    back_end = make_back_end()
    board = start_board(*options(tmp_path), board="q35,mem-share=on")
    bring_up(board, back_end)
    assert board.cpu.ask("dirty_log_start") == "OK"
    assert back_end._log is not None
    with pytest.raises(PermissionError):
        back_end._log.resize(PAGE)
    back_end.write(BUFFER, b"x")
    assert BUFFER in collect(board)


CALC: dict[str, object] = {"calc-time": 1, "mode": "dirty-bitmap"}


def test_one_that_is_silent_about_the_log_fails_the_measurement_and_holds_up_nobody(
    start_board: Start, make_back_end: Callable[..., BackEnd], tmp_path: Path
) -> None:
    back_end = make_back_end(protocol=LOG_SHMFD)
    monitors = [
        "-qmp", f"unix:{tmp_path}/0,server,nowait",
        "-chardev", f"socket,id=m,path={tmp_path}/1,server,nowait",
        "-mon", "chardev=m,mode=control",
    ]  # fmt: skip
    board = start_board(*options(tmp_path), *monitors, board="q35,mem-share=on")
    bring_up(board, back_end)
    back_end.answers_log = False
    with socket.socket(socket.AF_UNIX) as client, QmpClient(tmp_path / "1") as other:
        client.connect(str(tmp_path / "0"))
        client.settimeout(PATIENCE)
        answers = client.makefile("rb")
        request = {"execute": "calc-dirty-rate", "arguments": CALC}
        client.sendall(b'{"execute": "qmp_capabilities"}' + json.dumps(request).encode())
        began_s = time.monotonic()
        wait_until(lambda: back_end.is_asked, "it is asked for its log")
        # The guest goes on, and so do other clients.
        board.cpu.write(BUFFER, b"guest")
        assert other.cmd("query-status")["running"]
        with pytest.raises(ExecuteError, match="are being logged already"):
            other.cmd("calc-dirty-rate", **CALC)
        assert time.monotonic() - began_s < SILENCE_S / 2, "nobody waits for the peer"
        greeting, agreed, answer = (json.loads(answers.readline()) for _ in range(3))
        assert "QMP" in greeting and agreed == {"return": {}}
        assert answer["error"]["desc"] == (
            "cannot log writes to memory: -netdev vhost-user,id=n: the peer did not answer in 5 "
            "seconds"
        )
        assert other.cmd("query-dirty-rate")["status"] == "unstarted"
        # Such a peer is lost; nothing is logged any more, and the next measurement is of the rest.
        other.cmd("calc-dirty-rate", **CALC)
        board.cpu.ask("clock_step 1000000000")
        assert other.cmd("query-dirty-rate")["status"] == "measured"
        answers.close()
    assert board.machine.terminate() == 0
    assert b"the back end is lost: the peer did not answer in 5 seconds" in board.machine.errors


@pytest.fixture
def dpdk(tmp_path: Path) -> Iterator[Path]:
    """The socket of DPDK's back end, which sends packets as long as there are buffers for them."""
    path, log = tmp_path / "peer", tmp_path / "testpmd.log"
    command = [
        "dpdk-testpmd", "-l", "0-1", "--no-huge", "-m", "64", "--no-pci", "--no-telemetry",
        f"--file-prefix={os.getpid()}", f"--vdev=net_vhost0,iface={path},queues=1",
        "--", "--forward-mode=txonly", "--auto-start", "--total-num-mbufs=2048",
    ]  # fmt: skip
    # No sanitizer of ours is meant for it.
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, stderr=output, env=environment
        )
    wait_until(path.exists, f"testpmd listens: {log.read_text()[-2000:]}")
    yield path
    process.kill()
    process.wait()


def test_dpdk_logs_every_page_that_it_writes(
    start_board: Start, dpdk: Path, tmp_path: Path
) -> None:
    board = start_board(*options(tmp_path), board="q35,mem-share=on")
    ring, _ = PciDriver(board.cpu, 1).bring_up(2, used_at=USED, size=32)
    pages = [BUFFER + 3 * number * PAGE for number in range(16)]

    def receive() -> None:
        """Give it a buffer in every third page, and wait until all have a packet."""
        done = ring.used_index()
        for number, page in enumerate(pages):
            ring.offer(ring.chain([(page + 64, 2048, True)], first=number))
        wait_until(lambda: ring.used_index() - done == len(pages), "packets have come")

    def content() -> list[bytes]:
        return [board.cpu.read(page, PAGE) for page in range(BUFFER, pages[-1] + PAGE, PAGE)]

    receive()
    assert board.cpu.ask("dirty_log_start") == "OK"
    for page in pages:
        board.cpu.write(page, bytes(PAGE))
    collect(board)
    before = content()
    receive()
    logged = collect(board)
    after = content()
    changed = {
        BUFFER + number * PAGE
        for number, (old, new) in enumerate(zip(before, after, strict=True))
        if old != new
    }
    assert changed == set(pages)
    assert changed | {USED} <= logged and logged & {page + PAGE for page in pages} == set()
    assert board.cpu.ask("dirty_log_stop") == "OK"
    # It serves on.
    receive()
    assert board.machine.terminate() == 0
