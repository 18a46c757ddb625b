"""While a machine starts: it is served and can be ended, and its guest does not run yet."""

import os
import signal
import socket
import time
from pathlib import Path

import pytest
from qemu.qmp.qmp_client import ExecuteError

from tests.machine_process import MachineProcess, QmpClient
from tests.payload import SPIN, say, write_kernel
from tests.programs import STRATOVIRT


def start(tmp_path: Path, *argv: str) -> MachineProcess:
    return MachineProcess(*_words(tmp_path), *argv)


def start_slowly(tmp_path: Path, delay_us: int) -> MachineProcess:
    """A machine whose 16 pieces of memory take the host so long each; two at a time at least."""
    return MachineProcess(
        "-D", "-f", "-qq", "--seccomp-bpf", "-o", "/dev/null",
        "-e", f"inject=madvise:delay_enter={delay_us}", STRATOVIRT, *_words(tmp_path),
        "-m", "2G", "-mem-prealloc", "-serial", "stdio", program="strace",
    )  # fmt: skip


def _words(tmp_path: Path) -> list[str]:
    kernel = write_kernel(tmp_path, say("on\n") + SPIN)
    return ["-kernel", str(kernel), "-qmp", f"unix:{tmp_path}/qmp,server,nowait"]


def test_a_client_is_served_while_memory_is_allocated(tmp_path: Path) -> None:
    with (
        start_slowly(tmp_path, 200_000) as machine,
        QmpClient(tmp_path / "qmp") as client,
    ):
        assert client.cmd("query-status")["status"] == "prelaunch"
        client.cmd("stop")
        client.cmd("cont")
        assert b"on" not in machine.console
        machine.expect("on")
        assert client.cmd("query-status")["status"] == "running"


def test_a_machine_that_allocates_memory_ends_when_asked(tmp_path: Path) -> None:
    for end in ("signal", "quit"):
        with start_slowly(tmp_path, 500_000) as machine:
            with QmpClient(tmp_path / "qmp") as client:
                asked = time.monotonic()
                if end == "quit":
                    client.cmd("quit")
                else:
                    os.kill(machine.process.pid, signal.SIGTERM)
                assert machine.wait() == 0
            assert time.monotonic() - asked < 3, "all of it would take four seconds"
            assert machine.console == b""
        assert not (tmp_path / "qmp").exists()


def test_cont_runs_no_guest_before_the_process_has_given_up_its_rights(tmp_path: Path) -> None:
    serial = tmp_path / "serial"
    with (
        start(tmp_path, "-serial", f"socket,path={serial},server") as machine,
        QmpClient(tmp_path / "qmp") as client,
    ):
        client.cmd("cont")
        assert client.cmd("query-status")["status"] == "prelaunch"
        seccomp = Path(f"/proc/{machine.process.pid}/status")
        assert "Seccomp:\t0" in seccomp.read_text(), "it waits for the client of the serial port"
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(serial))
            assert peer.recv(1) == b"o"
        assert client.cmd("query-status")["status"] == "running"


def test_stop_before_the_start_keeps_the_guest_from_running(tmp_path: Path) -> None:
    serial = tmp_path / "serial"
    with (
        start(tmp_path, "-serial", f"socket,path={serial},server"),
        QmpClient(tmp_path / "qmp") as client,
        socket.socket(socket.AF_UNIX) as peer,
    ):
        client.cmd("stop")
        with pytest.raises(ExecuteError, match="the machine has not started yet"):
            client.cmd("migrate", uri=f"file:{tmp_path}/template")
        peer.connect(str(serial))
        peer.settimeout(1)
        with pytest.raises(TimeoutError):
            peer.recv(1)
        peer.settimeout(30)
        assert client.cmd("query-status")["status"] == "prelaunch"
        client.cmd("cont")
        assert peer.recv(1) == b"o"
