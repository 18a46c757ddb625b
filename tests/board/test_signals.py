"""A signal ends a machine at every moment of its start, in order, and nothing of it is left."""

import fcntl
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.board.test_waiting import connecting
from tests.machine_process import COMMAND, PATIENCE, wait_listening, wait_until

ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
BY_THE_SHELL = "came before the machine ran"


@pytest.fixture(autouse=True)
def heeding() -> Iterator[None]:
    """Whoever runs the tests may ignore SIGHUP, as nohup does, and programs inherit that."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


class Starting:
    """A machine that is being started in a folder of its own, whose things must all go again."""

    def __init__(self, folder: Path, *argv: str) -> None:
        self.folder = folder
        self.kept = set(folder.iterdir())
        self.command = [
            *COMMAND, "-pidfile", str(folder / "pid"), "-qmp", f"unix:{folder}/qmp,server,nowait",
            *argv,
        ]  # fmt: skip

    def end(self, number: signal.Signals, when: Callable[[], None]) -> tuple[int, str]:
        """Start it, send the signal once `when` returns; its status and what it said."""
        with subprocess.Popen(self.command, stderr=subprocess.PIPE, text=True) as process:
            when()
            process.send_signal(number)
            try:
                _, errors = process.communicate(timeout=PATIENCE)
            finally:
                process.kill()
        wait_until(lambda: not self.processes(), "all its processes are gone")
        assert set(self.folder.iterdir()) == self.kept, "nothing is left"
        return process.returncode, errors

    def processes(self) -> list[int]:
        """Whoever was started with this command line."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_text().split("\0")
                except OSError:
                    continue
                if f"{self.folder}/pid" in words:
                    found.append(int(entry.name))
        return found


@pytest.fixture
def processor(tmp_path: Path) -> Iterator[tuple[str, ...]]:
    """The options of a board whose processor never says anything."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "cpu"))
        listener.listen(16)
        yield "-machine", "q35", "-accel", "test", "-mod-test", f"unix:{tmp_path}/cpu"


@pytest.mark.parametrize("step", range(20))
def test_a_signal_after_any_time_leaves_nothing(
    tmp_path: Path, processor: tuple[str, ...], step: int
) -> None:
    serial = f"socket,path={tmp_path}/serial,server,nowait"
    start = Starting(tmp_path, *processor, "-serial", serial, "-m", "256M", "-mem-prealloc")
    number = ENDING[step % 2]

    def a_while_later() -> None:
        select.select([], [], [], 0.02 * step)

    status, errors = start.end(number, a_while_later)
    # Before its first line of code is reached it dies of the signal as any program does.
    assert status in (0, -number)
    assert errors == ""


def test_a_signal_whose_exception_python_drops_is_heeded_all_the_same(
    tmp_path: Path, processor: tuple[str, ...]
) -> None:
    # As if it had come while Python ran one of its own callbacks, where nothing can be raised.
    program = (
        "import os, signal, sys\n"
        "from stratovirt import cli\n"
        "from stratovirt.config import command_line\n"
        "parse = command_line.parse_command_line\n"
        "class Freed:\n"
        "    def __del__(self): os.kill(os.getpid(), signal.SIGTERM)\n"
        "def parse_freely(argv):\n"
        "    Freed()\n"
        "    return parse(argv)\n"
        "command_line.parse_command_line = parse_freely\n"
        "sys.exit(cli.run(sys.argv[1:]))\n"
    )
    monitor = f"unix:{tmp_path}/qmp,server,nowait"
    done = subprocess.run(
        [sys.executable, "-c", program, *processor, "-qmp", monitor, *COMMAND[1:]],
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "qmp").exists()


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that nobody will ever be connected to."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            yield port


@pytest.mark.parametrize("number", ENDING)
@pytest.mark.parametrize("switch", [(), ("-daemonize",)])
def test_a_machine_that_connects_is_ended(
    tmp_path: Path,
    processor: tuple[str, ...],
    silent_port: int,
    number: signal.Signals,
    switch: tuple[str, ...],
) -> None:
    chardev = f"socket,host=127.0.0.1,port={silent_port}"
    start = Starting(tmp_path, *processor, "-serial", chardev, *switch)

    def connects() -> None:
        wait_until(lambda: connecting(silent_port) > 0, "it connects")

    status, errors = start.end(number, connects)
    if switch:
        assert status == 1 and BY_THE_SHELL in errors and errors.count("\n") == 1
    else:
        assert (status, errors) == (0, "")


@pytest.mark.parametrize("number", ENDING)
def test_a_machine_whose_back_end_is_silent_is_ended(
    tmp_path: Path, processor: tuple[str, ...], number: signal.Signals
) -> None:
    with socket.socket(socket.AF_UNIX) as back_end:
        back_end.bind(str(tmp_path / "back-end"))
        back_end.listen(1)
        start = Starting(
            tmp_path, *processor[:1], f"{processor[1]},mem-share=on", *processor[2:],
            "-chardev", f"socket,id=c,path={tmp_path}/back-end",
            "-netdev", "vhost-user,id=n,chardev=c",
            "-device", "virtio-net-pci,netdev=n,bus=pcie.0,addr=1",
        )  # fmt: skip
        accepted: list[socket.socket] = []
        status = start.end(number, lambda: accepted.append(back_end.accept()[0]))
        assert status == (0, "")
        accepted[0].close()


def test_a_machine_that_waits_for_a_folder_is_ended(
    tmp_path: Path, processor: tuple[str, ...]
) -> None:
    folder = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    start = Starting(tmp_path, *processor)

    def waits() -> None:
        inode = f":{os.fstat(folder).st_ino} "
        wait_until(
            lambda: any(
                "->" in lock and inode in lock
                for lock in Path("/proc/locks").read_text().splitlines()
            ),
            "it waits for the lock",
        )

    assert start.end(signal.SIGTERM, waits) == (0, "")
    os.close(folder)


@pytest.mark.parametrize("switch", [(), ("-daemonize",)])
def test_a_machine_that_waits_for_a_client_is_ended(
    tmp_path: Path, processor: tuple[str, ...], switch: tuple[str, ...]
) -> None:
    start = Starting(
        tmp_path, *processor, "-serial", f"socket,path={tmp_path}/serial,server", *switch
    )
    status, errors = start.end(signal.SIGTERM, lambda: wait_listening(tmp_path / "serial"))
    assert status == (1 if switch else 0)
    assert errors.count("\n") == (1 if switch else 0)
