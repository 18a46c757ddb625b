"""The process around a machine: daemon, pidfile, log, names, terminal, ways to end."""

import os
import pty
import re
import signal
import socket
import subprocess
import termios
import time
from pathlib import Path

import pytest

from tests.machine_process import (
    COMMAND,
    PATIENCE,
    MachineProcess,
    QmpClient,
    run_to_end,
    wait_listening,
    wait_until,
)
from tests.payload import BUSY, PAYLOADS, POWER_OFF, SPIN, say, write_kernel

MIB = 1 << 20


def start(tmp_path: Path, *argv: str, code: bytes = say("on\n") + SPIN) -> MachineProcess:
    return MachineProcess("-kernel", str(write_kernel(tmp_path, code)), "-serial", "stdio", *argv)


def test_a_daemon_returns_when_the_machine_runs_and_ends_by_qmp(tmp_path: Path) -> None:
    path, pidfile, log = tmp_path / "qmp", tmp_path / "pid", tmp_path / "serial"
    kernel = write_kernel(tmp_path, say("on\n") + SPIN)
    done = run_to_end(
        "-kernel", str(kernel), "-daemonize", "-pidfile", str(pidfile),
        "-qmp", f"unix:{path},server,nowait", "-serial", f"file,path={log}",
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    pid = int(pidfile.read_text())
    assert os.getsid(pid) != os.getsid(0)
    assert {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (0, 1, 2)} == {"/dev/null"}
    wait_until(lambda: log.read_text() == "on\n", "the guest spoke")
    with QmpClient(path) as client:
        assert client.cmd("query-status")["running"]
        second = run_to_end("-machine", "none", "-pidfile", str(pidfile))
        assert second.returncode == 1
        assert second.stderr == f"stratovirt: -pidfile {pidfile}: another instance holds it\n"
        assert int(pidfile.read_text()) == pid
        client.cmd("quit")
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the daemon ends")
    assert {entry.name for entry in tmp_path.iterdir()} == {"payload.elf", "serial"}


def test_a_daemon_that_cannot_start_says_why_to_its_caller(tmp_path: Path) -> None:
    pidfile, path = tmp_path / "pid", tmp_path / "qmp"
    done = run_to_end(
        "-kernel", "/nonexistent", "-daemonize", "-pidfile", str(pidfile),
        "-qmp", f"unix:{path},server,nowait",
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == (
        "stratovirt: -kernel /nonexistent: cannot open: No such file or directory\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_pidfile_left_by_a_killed_machine_is_taken_over(tmp_path: Path) -> None:
    pidfile = tmp_path / "pid"
    with start(tmp_path, "-pidfile", str(pidfile), "-disable-seccomp") as machine:
        machine.expect("on")
        assert pidfile.read_text() == f"{machine.process.pid}\n"
        machine.process.kill()
    assert pidfile.exists()
    with start(tmp_path, "-pidfile", str(pidfile)) as machine:
        machine.expect("on")
        assert pidfile.read_text() == f"{machine.process.pid}\n"
        pidfile.unlink()
        pidfile.write_text("somebody else's")
        assert machine.terminate() == 0
    assert pidfile.read_text() == "somebody else's"


@pytest.mark.parametrize("kind", ["fifo", "folder", "link", "socket"])
def test_a_pidfile_replaces_nothing_but_a_regular_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "there"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("/dev/null")
    else:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    before = path.lstat()
    done = run_to_end("-machine", "none", "-pidfile", str(path))
    assert done.returncode == 1
    assert done.stderr == f"stratovirt: -pidfile {path}: is there and no regular file\n"
    assert path.lstat() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
@pytest.mark.parametrize("daemonize", [False, True])
def test_a_machine_whose_streams_are_closed_runs(
    tmp_path: Path, closed: str, daemonize: bool
) -> None:
    path, log = tmp_path / "qmp", tmp_path / "serial"
    kernel = write_kernel(tmp_path, say("on\n") + SPIN)
    argv = [*COMMAND, "-kernel", str(kernel), "-qmp", f"unix:{path},server,nowait",
            "-serial", f"file,path={log}", *(["-daemonize"] if daemonize else [])]  # fmt: skip
    process = subprocess.Popen(["/bin/sh", "-c", f'exec "$@" {closed}', "sh", *argv])
    with QmpClient(path) as client:
        wait_until(lambda: log.read_text() == "on\n", "the guest spoke")
        client.cmd("quit")
    assert process.wait(PATIENCE) == 0
    assert log.read_text() == "on\n"


def test_a_complaint_never_goes_to_the_stream_of_another(tmp_path: Path) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" 2>&-', "sh", *COMMAND, "-machine", "bad"],
        stdout=subprocess.PIPE, timeout=PATIENCE,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, b"")


LINE = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3} (trace|debug|info |warn |error) \w[\w.]*: .+"
)


@pytest.mark.parametrize("place", ["file", "stderr"])
def test_log_lines_have_time_level_and_module(tmp_path: Path, place: str) -> None:
    log = tmp_path / "log"
    kernel = write_kernel(tmp_path, POWER_OFF + BUSY)
    where = ("-D", str(log)) if place == "file" else ("-D",)
    done = subprocess.run(
        [*COMMAND, "-serial", "stdio", *where, "-kernel", str(kernel)],
        env={**os.environ, "STRATOVIRT_LOG_LEVEL": "info"},
        capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    text = log.read_text() if place == "file" else done.stderr
    assert done.returncode == 0 and text
    assert all(LINE.fullmatch(line) for line in text.splitlines()), text
    assert "info  vm: the machine ends: guest-shutdown" in text


def test_a_log_level_that_does_not_exist_is_a_mistake(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "-machine", "none"],
        env={**os.environ, "STRATOVIRT_LOG_LEVEL": "loud"},
        capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == (
        "stratovirt: STRATOVIRT_LOG_LEVEL must be one of trace, debug, info, warn, error, "
        "not 'loud'\n"
    )


def test_names_show_in_the_host(tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    argv = ("-name", "guest=vm-7,process=vm7,debug-threads=on", "-smp", "2")
    with start(tmp_path, *argv, "-qmp", f"unix:{path},server,nowait") as machine:
        machine.expect("on")
        tasks = Path(f"/proc/{machine.process.pid}/task")
        names = {(task / "comm").read_text().strip() for task in tasks.iterdir()}
        assert {"vm7", "CPU 0/KVM", "CPU 1/KVM"} <= names
        with QmpClient(path) as client:
            assert client.cmd("query-name") == {"name": "vm-7"}
            for cpu in client.cmd("query-cpus-fast"):
                comm = (tasks / str(cpu["thread-id"]) / "comm").read_text()
                assert comm == f"CPU {cpu['cpu-index']}/KVM\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_with_an_event_and_nothing_left(
    tmp_path: Path, number: signal.Signals
) -> None:
    path, pidfile = tmp_path / "qmp", tmp_path / "pid"
    options = ("-qmp", f"unix:{path},server,nowait", "-pidfile", str(pidfile))
    with start(tmp_path, *options) as machine, QmpClient(path) as client:
        machine.expect("on")
        machine.process.send_signal(number)
        event = client.wait_event("SHUTDOWN")
        assert event["data"] == {"guest": False, "reason": "host-signal"}
        assert machine.wait() == 0
    assert {entry.name for entry in tmp_path.iterdir()} == {"payload.elf"}


def terminal_settings(fd: int) -> list[object]:
    return termios.tcgetattr(fd)[:6]


@pytest.mark.parametrize("end", ["ctrl-a x", "SIGTERM", "guest"])
def test_the_terminal_is_raw_while_it_runs_and_restored_at_the_end(
    tmp_path: Path, end: str
) -> None:
    # The guest says it is there, waits for a byte, and powers off.
    kernel = write_kernel(tmp_path, say("on\n") + PAYLOADS.wait_for_byte + POWER_OFF + BUSY)
    master, slave = pty.openpty()
    before = terminal_settings(slave)
    process = subprocess.Popen(
        [*COMMAND, "-kernel", str(kernel), "-serial", "stdio"],
        stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
    )  # fmt: skip
    shown = b""
    while b"on" not in shown:
        shown += os.read(master, 64)
    assert terminal_settings(slave) != before
    if end == "ctrl-a x":
        os.write(master, b"\x01x")
    elif end == "SIGTERM":
        process.terminate()
    else:
        os.write(master, b"b")
    assert process.wait(timeout=PATIENCE) == 0
    assert terminal_settings(slave) == before
    os.close(master)
    os.close(slave)


def test_a_reset_by_the_manager_starts_the_guest_anew(tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    with start(tmp_path, "-smp", "2", "-qmp", f"unix:{path},server,nowait") as machine:
        with QmpClient(path) as client:
            machine.expect("on\n")
            for _ in range(3):
                client.cmd("system_reset")
                data = client.wait_event("RESET")["data"]
                assert data == {"guest": False, "reason": "host-qmp-system-reset"}
                machine.expect("on\n")
                assert client.cmd("query-status")["status"] == "running"
            client.cmd("stop")
            client.cmd("system_reset")
            assert client.cmd("query-status")["status"] == "paused"
            seen = machine.console.count(b"on\n")
            time.sleep(0.2)
            machine._drain()
            assert machine.console.count(b"on\n") == seen
            client.cmd("cont")
            machine.expect("on\n")
        assert machine.terminate() == 0


@pytest.mark.measures_memory
def test_a_flood_of_commands_does_not_disturb_the_guest(tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    dots = PAYLOADS.say_slowly(".")
    with start(tmp_path, "-qmp", f"unix:{path},server,nowait", code=dots) as machine:
        wait_listening(path)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.settimeout(PATIENCE)
            stream = client.makefile("rb")
            stream.readline()
            client.sendall(b'{"execute": "query-status"}\n' * 400)
            replies = [stream.readline() for _ in range(400)]
            stream.close()
        assert all(b"return" in reply for reply in replies)
        machine._drain()
        before = len(machine.console)
        wait_until(lambda: machine._pump(0.1) and len(machine.console) > before, "a dot")
        status = Path(f"/proc/{machine.process.pid}/status").read_text()
        assert int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) < 100 << 10
        assert machine.terminate() == 0


def test_no_descriptor_would_outlive_an_exec(tmp_path: Path) -> None:
    image, log = tmp_path / "disk", tmp_path / "log"
    image.write_bytes(bytes(MIB))
    (tmp_path / "other").write_bytes(bytes(MIB))
    path = tmp_path / "qmp"
    with start(
        tmp_path, "-qmp", f"unix:{path},server,nowait", "-D", str(log), "-smp", "2",
        "-pidfile", str(tmp_path / "pid"), "-object", "iothread,id=io",
        "-drive", f"id=d,file={image}", "-device", "virtio-blk-device,drive=d,iothread=io",
        "-drive", f"id=b,file={tmp_path}/other,direct=off,readonly=on",
        "-device", "virtio-blk-device,drive=b",
        "-object", "rng-random,id=r,filename=/dev/urandom", "-device", "virtio-rng-device,rng=r",
        "-device", "virtio-serial-device",
        "-chardev", f"socket,id=c,path={tmp_path}/c,server,nowait",
        "-device", "virtconsole,chardev=c", "-device", "virtio-balloon-device",
    ) as machine:  # fmt: skip
        machine.expect("on")
        with QmpClient(path) as client:
            client.cmd("query-status")
            listing = Path(f"/proc/{machine.process.pid}/fdinfo")
            kept = [
                os.readlink(f"/proc/{machine.process.pid}/fd/{info.name}")
                for info in listing.iterdir()
                if int(info.name) > 2
                and not int(re.findall(r"flags:\s+(\d+)", info.read_text())[0], 8) & os.O_CLOEXEC
            ]
            assert kept == []
            assert len(list(listing.iterdir())) > 20


def test_what_it_creates_is_its_users_alone(tmp_path: Path) -> None:
    path, log, serial = tmp_path / "qmp", tmp_path / "log", tmp_path / "serial"
    kernel = write_kernel(tmp_path, say("on\n") + SPIN)
    before = os.umask(0)
    try:
        with MachineProcess(
            "-kernel", str(kernel), "-qmp", f"unix:{path},server,nowait", "-D", str(log),
            "-serial", f"file,path={serial}",
        ):  # fmt: skip
            wait_until(lambda: serial.exists() and serial.read_text() == "on\n", "it runs")
            assert [oct(file.stat().st_mode & 0o777) for file in (path, log, serial)] == [
                "0o600"
            ] * 3
    finally:
        os.umask(before)
