"""A peer that is not there, has gone, or has said all it had to say: nobody waits for it."""

import json
import os
import pty
import select
import socket
import subprocess
import termios
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.board.conftest import Board
from tests.board.test_chardevs import (
    LINE_STATUS,
    connect,
    connect_tcp,
    free_port,
    hear,
    say,
)
from tests.machine_process import (
    PATIENCE,
    MachineProcess,
    run_to_end,
    wait_until,
)
from tests.programs import STRATOVIRT

Start = Callable[..., Board]
TRANSMITTER_READY = 0x20
MORE_THAN_A_TERMINAL_KEEPS = 30_000


def transmitter_is_ready(board: Board) -> bool:
    return bool(board.cpu.value(f"inb {LINE_STATUS:x}") & TRANSMITTER_READY)


def test_output_to_a_pty_that_nobody_opens_is_dropped_and_who_comes_is_served(
    start_board: Start,
) -> None:
    board = start_board("-serial", "pty")
    path = board.machine.expect(r"char device redirected to (\S+) \(label serial0\)\n")[1]
    say(board, "x" * MORE_THAN_A_TERMINAL_KEEPS)
    assert transmitter_is_ready(board)
    terminal = os.open(path, os.O_RDWR | os.O_NOCTTY)
    say(board, "here")
    assert select.select([terminal], [], [], PATIENCE)[0]
    assert os.read(terminal, 100)[:1] == b"h"
    os.write(terminal, b"typed")
    assert hear(board, 5) == b"typed"
    os.close(terminal)
    say(board, "x" * MORE_THAN_A_TERMINAL_KEEPS)
    assert transmitter_is_ready(board)
    assert board.machine.terminate() == 0


def test_output_on_a_full_disk_is_dropped_and_the_transmitter_is_ready(start_board: Start) -> None:
    board = start_board("-serial", "file,path=/dev/full")
    say(board, "x" * 5000)
    assert transmitter_is_ready(board)


def test_a_pipe_whose_reader_has_gone_takes_all_output_and_input_goes_on() -> None:
    argv = (STRATOVIRT, "-machine", "none", "-chardev", "stdio,id=c", "-mon", "chardev=c")
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        assert b"QMP" in process.stdout.readline()
        process.stdout.close()
        process.stdin.write(b'{"execute": "query-qmp-schema"}' * 3 + b'{"execute": "quit"}')
        process.stdin.flush()
        assert process.wait(PATIENCE) == 0


def everything(client: socket.socket) -> list[dict[str, object]]:
    with client.makefile("rb") as stream:
        return [json.loads(line) for line in stream]


@pytest.mark.parametrize("kind", ["unix", "tcp"])
@pytest.mark.parametrize("has_broker", [True, False])
def test_a_client_that_shuts_its_writing_side_gets_every_answer(
    start_board: Start, tmp_path: Path, kind: str, has_broker: bool
) -> None:
    port, path = free_port(), tmp_path / "qmp"
    where = f"unix:{path}" if kind == "unix" else f"tcp:127.0.0.1:{port}"
    switches = () if has_broker else ("-disable-seccomp",)
    board = start_board("-qmp", f"{where},server,nowait", *switches)

    def ask(requests: bytes) -> list[dict[str, object]]:
        with connect(path) if kind == "unix" else connect_tcp(port) as client:
            client.sendall(requests)
            client.shutdown(socket.SHUT_WR)
            return everything(client)

    both = b'{"execute": "query-qmp-schema"}\n{"execute": "query-status"}\n'
    assert len([answer for answer in ask(both * 60) if "return" in answer]) == 120
    said = ask(both + b'{"execute": "quit", "id": 2}')
    assert [answer["id"] for answer in said if "id" in answer] == [2]
    assert said[-1]["event"] == "SHUTDOWN"
    assert board.machine.wait() == 0


def test_a_socket_on_which_a_machine_serves_is_refused_each_time(tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    argv = ("-machine", "none", "-qmp", f"unix:{path},server,nowait")
    with MachineProcess(*argv):
        connect(path)
        for _ in range(5):
            done = run_to_end(*argv)
            assert done.returncode == 1
            assert "Address already in use" in done.stderr


@pytest.mark.parametrize(
    "options",
    [
        ("-kernel", "FIFO"),
        ("-drive", "id=d,file=FIFO,readonly=on,direct=off", "-device", "virtio-blk-device,drive=d"),
    ],
)
def test_a_fifo_is_refused_and_not_waited_for(tmp_path: Path, options: tuple[str, ...]) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    argv = [option.replace("FIFO", str(fifo)) for option in options]
    socket_path = tmp_path / "cpu"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(socket_path))
        listener.listen(1)
        done = run_to_end(
            "-machine", "microvm", "-accel", "test", "-mod-test", f"unix:{socket_path}", *argv
        )
    assert done.returncode == 1
    assert str(fifo) in done.stderr


def test_a_terminal_that_goes_away_ends_the_machine_in_order() -> None:
    master, slave = pty.openpty()
    argv = (STRATOVIRT, "-machine", "none", "-chardev", "stdio,id=c", "-mon", "chardev=c")
    with subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=subprocess.PIPE) as process:
        os.close(slave)
        assert select.select([master], [], [], PATIENCE)[0]
        os.close(master)
        assert process.wait(PATIENCE) == 0
        assert process.stderr is not None and process.stderr.read() == b""


def read_until(terminal: int, wanted: bytes) -> None:
    shown = b""
    while wanted not in shown:
        assert select.select([terminal], [], [], PATIENCE)[0], f"only {shown!r} came"
        shown += os.read(terminal, 4096)


def test_control_a_helps_and_ends_a_machine_whose_guest_reads_nothing(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "cpu"))
        listener.listen(1)
        argv = (
            STRATOVIRT, "-machine", "microvm", "-accel", "test", "-S",
            "-mod-test", f"unix:{tmp_path}/cpu", "-serial", "stdio",
        )  # fmt: skip
        with subprocess.Popen(argv, stdin=slave, stdout=slave) as process:
            cpu, _ = listener.accept()
            wait_until(lambda: not termios.tcgetattr(slave)[3] & termios.ICANON, "it is raw")
            os.write(master, b"rm -r everything\r" * 20)
            os.write(master, b"\x01h")
            read_until(master, b"C-a x    end the machine\r\n")
            os.write(master, b"\x01c")
            read_until(master, b"there is no monitor at this terminal")
            os.write(master, b"\x01x")
            assert process.wait(PATIENCE) == 0
        cpu.close()
    # Nothing of it is left to the shell.
    assert not select.select([slave], [], [], 0)[0]
    os.close(slave)
    os.close(master)
