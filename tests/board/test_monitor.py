"""QMP as its clients meet it, with QEMU's own client where one is enough."""

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.board.conftest import Board
from tests.machine_process import QmpClient, wait_listening

Start = Callable[..., Board]


class RawClient:
    """A client that says whatever it likes."""

    def __init__(self, path: Path) -> None:
        wait_listening(path)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(str(path))
        self.stream = self.socket.makefile("rwb")
        self.greeting = self.receive()

    def receive(self) -> dict[str, object]:
        return dict(json.loads(self.stream.readline()))

    def send(self, content: bytes) -> None:
        self.stream.write(content)
        self.stream.flush()

    def ask(self, content: bytes) -> dict[str, object]:
        self.send(content + b"\n")
        return self.receive()


def error_class(reply: dict[str, object]) -> str:
    error = reply["error"]
    assert isinstance(error, dict)
    return str(error["class"])


def test_qemus_client_negotiates_queries_stops_continues_and_quits(
    start_board: Start, tmp_path: Path
) -> None:
    path = tmp_path / "qmp"
    board = start_board("-qmp", f"unix:{path},server,nowait", "-name", "vm-1", "-smp", "2")
    with QmpClient(path) as client:
        assert client.cmd("query-status") == {
            "running": True,
            "singlestep": False,
            "status": "running",
        }
        assert client.cmd("query-version")["qemu"] == {"major": 5, "minor": 0, "micro": 1}
        assert client.cmd("query-name") == {"name": "vm-1"}
        assert [cpu["cpu-index"] for cpu in client.cmd("query-cpus-fast")] == [0, 1]
        assert {"name": "stop"} in client.cmd("query-commands")
        assert client.cmd("stop") == {}
        client.wait_event("STOP")
        assert client.cmd("query-status")["status"] == "paused"
        assert client.cmd("cont") == {}
        client.wait_event("RESUME")
        client.cmd("quit")
        assert client.wait_event("SHUTDOWN")["data"] == {"guest": False, "reason": "host-qmp-quit"}
        assert board.machine.wait() == 0
        assert not path.exists()


def test_paused_from_the_start_by_option(start_board: Start, tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    start_board("-qmp", f"unix:{path},server=on,wait=off", "-S")
    with QmpClient(path) as client:
        assert client.cmd("query-status")["status"] == "prelaunch"
        client.cmd("cont")
        assert client.cmd("query-status")["status"] == "running"


def test_what_clients_get_wrong_is_answered_and_the_connection_lives(
    start_board: Start, tmp_path: Path
) -> None:
    path = tmp_path / "qmp"
    start_board("-qmp", f"unix:{path},server,nowait")
    client = RawClient(path)
    greeting = client.greeting["QMP"]
    assert isinstance(greeting, dict) and greeting["capabilities"] == []
    for request in (b"{", b"[]", b"1", b"nonsense", b'{"execute": 5}', b'{"arguments": {}}',
                    b'{"execute": "stop", "arguments": []}', b'{"execute": "stop", "x": 1}',
                    b'{"execute": "stop", "arguments": {"force": true}}', b"\xff\xfe",
                    b"[" * 5000):  # fmt: skip
        assert error_class(client.ask(request)) == "GenericError", request
    assert error_class(client.ask(b'{"execute": "dance"}')) == "CommandNotFound"
    reply = client.ask(b'{"execute": "query-status", "id": {"a": [1, null]}}')
    assert reply["id"] == {"a": [1, None]} and "return" in reply


@pytest.mark.measures_memory
def test_a_line_without_end_is_cut_and_the_next_is_heard(
    start_board: Start, tmp_path: Path
) -> None:
    path = tmp_path / "qmp"
    board = start_board("-qmp", f"unix:{path},server,nowait")
    client = RawClient(path)
    for _ in range(64):
        client.send(b"x" * (1 << 20))
    client.send(b"\n")
    assert error_class(client.receive()) == "GenericError"
    assert "return" in client.ask(b'{"execute": "query-status"}')
    status = Path(f"/proc/{board.machine.process.pid}/status").read_text()
    peak_kib = int(next(line.split()[1] for line in status.splitlines() if "VmHWM" in line))
    assert peak_kib < 100 << 10


@pytest.mark.parametrize(
    "value", [b"[" * 100_000 + b"]" * 100_000, b"[]," * 100_000 + b"[]", b"0," * 400_000 + b"0"]
)
def test_a_request_of_too_many_values_is_one_error_and_the_connection_lives(
    start_board: Start, tmp_path: Path, value: bytes
) -> None:
    path = tmp_path / "qmp"
    start_board("-qmp", f"unix:{path},server,nowait")
    client = RawClient(path)
    for request in (value, b'{"execute": "query-name", "id": [' + value + b"]}"):
        assert error_class(client.ask(request)) == "GenericError"
        assert client.ask(b'{"execute": "query-name"}') == {"return": {}}


def test_a_flood_is_served_in_order_and_nothing_of_it_is_refused(
    start_board: Start, tmp_path: Path
) -> None:
    path = tmp_path / "qmp"
    board = start_board("-qmp", f"unix:{path},server,nowait")
    client = RawClient(path)
    started = time.monotonic()
    for number in range(300):
        client.send(b'{"execute": "query-status", "id": %d}\n' % number)
    assert [client.receive()["id"] for _ in range(100)] == list(range(100))
    # The guest and the loop have their turns meanwhile.
    assert board.cpu.value("readb 0") == 0
    replies = [client.receive() for _ in range(200)]
    assert [reply["id"] for reply in replies] == list(range(100, 300))
    assert all("return" in reply for reply in replies)
    # A hundred at once, and then a hundred a second.
    assert time.monotonic() - started > 1.9


def test_a_flood_fills_the_clients_socket_and_not_the_machine(
    start_board: Start, tmp_path: Path
) -> None:
    path = tmp_path / "qmp"
    start_board("-qmp", f"unix:{path},server,nowait")
    client = RawClient(path)
    client.socket.setblocking(False)
    sent = 0
    with pytest.raises(BlockingIOError):
        while sent < 16 << 20:
            sent += client.socket.send(b'{"execute": "query-status"}\n' * 1000)
            time.sleep(0.001)
    assert sent < 4 << 20


def test_clients_come_and_go_and_one_is_served_after_the_other(
    start_board: Start, tmp_path: Path
) -> None:
    path = tmp_path / "qmp"
    board = start_board("-qmp", f"unix:{path},server,nowait")
    fds = Path(f"/proc/{board.machine.process.pid}/fd")
    RawClient(path).socket.close()
    before = len(list(fds.iterdir()))
    for _ in range(50):
        client = RawClient(path)
        client.stream.close()
        client.socket.close()
    client = RawClient(path)
    assert "return" in client.ask(b'{"execute": "query-status"}')
    assert len(list(fds.iterdir())) <= before + 2


@pytest.mark.measures_memory
def test_a_client_that_never_reads_is_sent_away_and_the_next_is_served(
    start_board: Start, tmp_path: Path
) -> None:
    path = tmp_path / "qmp"
    board = start_board("-qmp", f"unix:{path},server,nowait")
    deaf = RawClient(path)
    # No answer is longer, and a few hundred of them are more than is kept for anybody.
    with pytest.raises(ConnectionError):
        for _ in range(20):
            deaf.send(b'{"execute": "query-qmp-schema"}\n' * 50)
            time.sleep(0.6)
    client = RawClient(path)
    assert "return" in client.ask(b'{"execute": "query-status"}')
    status = Path(f"/proc/{board.machine.process.pid}/status").read_text()
    peak_kib = int(next(line.split()[1] for line in status.splitlines() if "VmHWM" in line))
    assert peak_kib < 100 << 10
    deaf.socket.close()


def test_a_client_that_reads_once_sees_the_event_and_then_the_reply(
    start_board: Start, tmp_path: Path
) -> None:
    path = tmp_path / "qmp"
    start_board("-qmp", f"unix:{path},server,nowait")
    client = RawClient(path)
    for _ in range(20):
        for command, event in ((b"stop", "STOP"), (b"cont", "RESUME")):
            client.send(b'{"execute": "%s"}\n' % command)
            said = [json.loads(line) for line in client.socket.recv(4096).splitlines()]
            assert [line.get("event") for line in said] == [event, None]
            assert said[1] == {"return": {}}


def test_events_do_not_come_before_a_clients_first_answer(
    start_board: Start, tmp_path: Path
) -> None:
    paths = tmp_path / "one", tmp_path / "other"
    start_board(
        "-qmp", f"unix:{paths[0]},server,nowait",
        "-chardev", f"socket,id=m,path={paths[1]},server,nowait", "-mon", "chardev=m,mode=control",
    )  # fmt: skip
    client = RawClient(paths[0])
    with QmpClient(paths[1]) as other:
        for name in ("stop", "cont"):
            other.cmd(name)
        # QEMU's own client takes the message behind the greeting for the answer.
        assert client.ask(b'{"execute": "qmp_capabilities"}') == {"return": {}}
        assert [client.receive()["event"] for _ in range(2)] == ["STOP", "RESUME"]
        other.cmd("stop")
        assert client.receive()["event"] == "STOP"
