"""Board fixtures: a machine on the test accelerator with this test as its processor."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.machine_process import PATIENCE, MachineProcess


class Processor:
    """Speaks the test accelerator's protocol, from the listening side."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._stream = connection.makefile("rw", newline="\n")

    def ask(self, line: str) -> str:
        """Send one command and return its reply."""
        self._stream.write(line + "\n")
        self._stream.flush()
        return self._stream.readline().strip()

    def ask_piece(self, piece: str) -> str:
        """Send a piece as it is, without a newline, and return the reply."""
        self._connection.sendall(piece.encode())
        return self._stream.readline().strip()

    def leave(self) -> None:
        """Hang up."""
        self._connection.shutdown(socket.SHUT_RDWR)

    def value(self, line: str) -> int:
        """The number in an OK reply."""
        reply = self.ask(line)
        assert reply.startswith("OK 0x"), reply
        return int(reply.split()[1], 16)

    def do(self, line: str) -> None:
        """Send a command that must succeed without a value."""
        reply = self.ask(line)
        assert reply == "OK", f"{line}: {reply}"

    def do_all(self, *lines: str) -> None:
        """Send commands in one piece, all of which must succeed without a value."""
        self._stream.write("".join(f"{line}\n" for line in lines))
        self._stream.flush()
        for line in lines:
            reply = self._stream.readline().strip()
            assert reply == "OK", f"{line}: {reply}"

    def read(self, gpa: int, size: int) -> bytes:
        """Memory as the guest sees it."""
        return bytes.fromhex(self.ask(f"read {gpa:x} {size:x}").removeprefix("OK 0x"))

    def write(self, gpa: int, data: bytes) -> None:
        """Store to memory as the guest would."""
        if data:
            self.do(f"write {gpa:x} {len(data):x} 0x{data.hex()}")


class Board:
    """A machine process and its processor."""

    def __init__(self, machine: MachineProcess, cpu: Processor) -> None:
        self.machine, self.cpu = machine, cpu


@pytest.fixture
def start_board(tmp_path: Path) -> Iterator[Callable[..., Board]]:
    """Start a board with further options; stopped at the end of the test."""
    running: list[MachineProcess] = []
    boards: list[Board] = []  # kept, because a processor that is collected hangs up

    def start(*argv: str, board: str = "microvm") -> Board:
        path = tmp_path / f"cpu{len(running)}"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen(1)
            listener.settimeout(PATIENCE)
            machine = MachineProcess(
                "-machine", board, "-accel", "test", "-mod-test", f"unix:{path}", *argv
            )
            running.append(machine)
            connection, _ = listener.accept()
        connection.settimeout(PATIENCE)
        boards.append(Board(machine, Processor(connection)))
        return boards[-1]

    yield start
    for machine in running:
        machine.__exit__(None, None, None)
