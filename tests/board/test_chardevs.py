"""Chardevs and monitors of every kind, from the outside: who connects, leaves, comes back."""

import json
import os
import select
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from qemu.qmp.qmp_client import ExecuteError

from tests.board.conftest import Board
from tests.machine_process import (
    PATIENCE,
    MachineProcess,
    QmpClient,
    run_to_end,
    wait_listening,
    wait_until,
)

Start = Callable[..., Board]
UART = 0x3F8
LINE_STATUS, DATA_READY = UART + 5, 1


def say(board: Board, text: str) -> None:
    for byte in text.encode():
        board.cpu.do(f"outb {UART:x} {byte:x}")


def hear(board: Board, size: int) -> bytes:
    heard = b""
    deadline = time.monotonic() + PATIENCE
    while len(heard) < size:
        if board.cpu.value(f"inb {LINE_STATUS:x}") & DATA_READY:
            heard += bytes([board.cpu.value(f"inb {UART:x}")])
        assert time.monotonic() < deadline, f"only {heard!r} came"
    return heard


def connect(path: Path) -> socket.socket:
    wait_listening(path)
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(PATIENCE)
    peer.connect(str(path))
    return peer


def receive(peer: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        received += peer.recv(size - len(received))
    return received


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def connect_tcp(port: int) -> socket.socket:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.parametrize("form", ["short", "chardev"])
def test_a_serial_port_on_a_unix_socket_serves_one_client_after_the_other(
    start_board: Start, tmp_path: Path, form: str
) -> None:
    path = tmp_path / "serial"
    socket_options = f"socket,path={path},server,nowait"
    argv = {
        "short": ("-serial", socket_options),
        "chardev": ("-chardev", f"{socket_options},id=c0", "-serial", "chardev:c0"),
    }[form]
    board = start_board(*argv)
    for text in ("first", "second"):
        peer = connect(path)
        # The peer is served once its input arrives.
        peer.sendall(text.encode())
        assert hear(board, len(text)) == text.encode()
        say(board, text)
        assert receive(peer, len(text)) == text.encode()
        peer.sendall(b"half a li")
        peer.close()
        assert hear(board, 9) == b"half a li"
    assert board.machine.terminate() == 0
    assert not path.exists()


def test_a_server_that_waits_lets_the_machine_start_with_its_client(tmp_path: Path) -> None:
    path, qmp = tmp_path / "serial", tmp_path / "qmp"
    argv = (
        "-machine", "none", "-qmp", f"unix:{qmp},server,nowait",
        "-chardev", f"socket,id=m,path={path},server", "-mon", "m",
    )  # fmt: skip
    with MachineProcess(*argv) as machine, QmpClient(qmp) as client:
        assert client.cmd("query-status")["status"] == "prelaunch"
        peer = connect(path)
        assert b"QMP" in peer.recv(4096)
        wait_until(lambda: client.cmd("query-status")["running"], "the machine runs")
        peer.close()
        assert machine.terminate() == 0


def test_a_machine_that_waits_for_its_client_can_be_ended(tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    with MachineProcess("-machine", "none", "-qmp", f"unix:{path},server") as machine:
        wait_listening(path)
        assert machine.terminate() == 0
    assert not path.exists()


def test_a_client_chardev_connects_and_reconnects(start_board: Start, tmp_path: Path) -> None:
    path = tmp_path / "peer"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        listener.settimeout(PATIENCE)
        board = start_board("-serial", f"socket,path={path},reconnect=1")
        for text in (b"one", b"two"):
            peer, _ = listener.accept()
            peer.sendall(text)
            assert hear(board, 3) == text
            peer.close()


def test_a_client_chardev_without_its_server_is_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "nobody"
    done = run_to_end(
        "-machine", "none", "-chardev", f"socket,id=c,path={path}", "-mon", "chardev=c"
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"stratovirt: -mon chardev=c: cannot connect to {path}: No such file or directory\n"
    )


def test_a_serial_port_on_a_pty_prints_its_path(start_board: Start) -> None:
    board = start_board("-serial", "pty")
    found = board.machine.expect(r"char device redirected to (\S+) \(label serial0\)\n")
    terminal = os.open(found[1], os.O_RDWR | os.O_NOCTTY)
    os.write(terminal, b"typed")
    assert hear(board, 5) == b"typed"
    say(board, "shown")
    assert select.select([terminal], [], [], PATIENCE)[0]
    assert os.read(terminal, 5)[:1] == b"s"
    os.close(terminal)
    terminal = os.open(found[1], os.O_RDWR | os.O_NOCTTY)
    os.write(terminal, b"again")
    assert hear(board, 5) == b"again"
    os.close(terminal)


def test_a_serial_port_on_a_file_writes_and_appends(start_board: Start, tmp_path: Path) -> None:
    path = tmp_path / "serial.log"
    path.write_text("old")
    board = start_board("-serial", f"file,path={path}")
    say(board, "new")
    wait_until(lambda: path.read_text() == "new", "the file has what the guest said")
    assert board.machine.terminate() == 0
    again = start_board("-chardev", f"file,id=f,path={path},append=on", "-serial", "chardev:f")
    say(again, "er")
    wait_until(lambda: path.read_text() == "newer", "the file keeps what it had")


def test_a_peer_that_stops_reading_holds_up_nobody(start_board: Start, tmp_path: Path) -> None:
    path = tmp_path / "serial"
    board = start_board("-serial", f"socket,path={path},server,nowait")
    peer = connect(path)
    peer.sendall(b"x")
    assert hear(board, 1) == b"x"
    for _ in range(30):
        say(board, "y" * 100)
    assert board.machine.terminate() == 0


def test_a_monitor_on_tcp(start_board: Start) -> None:
    port = free_port()
    start_board("-qmp", f"tcp:127.0.0.1:{port},server,nowait")
    connect_tcp(port).close()
    with QmpClient(("127.0.0.1", port)) as client:
        assert client.cmd("query-status")["running"]
        (chardev,) = client.cmd("query-chardev")
        assert chardev["filename"] == f"tcp:127.0.0.1:{port},server=on"


def test_several_monitors_each_hear_events(start_board: Start, tmp_path: Path) -> None:
    first, second = tmp_path / "qmp1", tmp_path / "qmp2"
    start_board(
        "-qmp", f"unix:{first},server,nowait",
        "-chardev", f"socket,id=charmonitor,path={second},server=on,wait=off",
        "-mon", "chardev=charmonitor,id=monitor,mode=control",
    )  # fmt: skip
    with QmpClient(first) as one, QmpClient(second) as two:
        one.cmd("stop")
        assert two.wait_event("STOP") and one.wait_event("STOP")
        two.cmd("cont")
        assert one.wait_event("RESUME")


def test_a_monitor_on_standard_input_and_output_indented(tmp_path: Path) -> None:
    argv = ("-machine", "none", "-chardev", "stdio,id=c", "-mon", "chardev=c,pretty=on")
    with MachineProcess(*argv) as machine:
        machine.expect('"QMP": {')
        machine.type('{"execute": "query-status"}\n')
        machine.expect('    "return": {')
        machine.type('{"execute": "quit"}\n')
        assert machine.wait() == 0


def test_the_second_client_is_served_when_the_first_leaves(
    start_board: Start, tmp_path: Path
) -> None:
    path = tmp_path / "qmp"
    start_board("-qmp", f"unix:{path},server,nowait")
    first = connect(path)
    assert b"QMP" in first.recv(4096)
    second = socket.socket(socket.AF_UNIX)
    second.settimeout(0.5)
    second.connect(str(path))
    with pytest.raises(TimeoutError):
        second.recv(4096)
    first.sendall(b'{"execute": "query-sta')
    first.close()
    second.settimeout(PATIENCE)
    assert b"QMP" in second.recv(4096)
    second.sendall(b'{"execute": "query-status"}\n')
    assert b'"return"' in second.recv(4096)


def test_descriptors_come_by_scm_rights_and_are_counted(start_board: Start, tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    board = start_board("-qmp", f"unix:{path},server,nowait")
    client = connect(path)
    stream = client.makefile("rb")
    assert b"QMP" in stream.readline()
    fds = Path(f"/proc/{board.machine.process.pid}/fd")
    before = len(list(fds.iterdir()))

    def ask(name: str, *descriptors: int, **arguments: object) -> dict[str, object]:
        request = json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n"
        socket.send_fds(client, [request], list(descriptors))
        return dict(json.loads(stream.readline()))

    with open(tmp_path / "file", "w") as file:
        assert ask("getfd", file.fileno(), fdname="one") == {"return": {}}
        assert len(list(fds.iterdir())) == before + 1
        assert ask("getfd", file.fileno(), fdname="one") == {"return": {}}
        assert len(list(fds.iterdir())) == before + 1
        assert "error" in ask("getfd", fdname="none-sent")
        assert ask("closefd", fdname="one") == {"return": {}}
        assert "error" in ask("closefd", fdname="one")
        # Descriptors that nobody names do not pile up, and a client's go with it.
        for _ in range(20):
            ask("query-status", *[file.fileno()] * 8)
        assert len(list(fds.iterdir())) <= before + 16
        assert ask("getfd", file.fileno(), fdname="left") == {"return": {}}
    client.close()
    stream.close()
    wait_until(lambda: len(list(fds.iterdir())) <= before, "the client's descriptors are closed")


def test_arguments_of_the_wrong_type_are_named(start_board: Start, tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    start_board("-qmp", f"unix:{path},server,nowait")
    with QmpClient(path) as client:
        with pytest.raises(ExecuteError, match="gpa must be a guest physical address"):
            client.cmd("query-mem-gpa", gpa=[1])
        with pytest.raises(ExecuteError, match="typename is missing"):
            client.cmd("device-list-properties")
        with pytest.raises(ExecuteError, match="enable must be on or off"):
            client.cmd("trace-set-state", name="*", enable=1)
        assert client.cmd("query-status")["running"]
