"""Tiny payloads on real /dev/kvm: exits, ends, pauses and errors as a user meets them."""

import os
import shlex
import signal
import time
from pathlib import Path

import pytest
from qemu.qmp.qmp_client import ExecuteError

from tests.machine_process import (
    MachineProcess,
    QmpClient,
    run_to_end,
    wait_listening,
)
from tests.payload import BUSY, CRASH, PAYLOADS, POWER_OFF, RESET, SPIN, say, write_kernel

NOTHING_LEFT = {"payload.elf"}


def boot(tmp_path: Path, code: bytes, *argv: str) -> MachineProcess:
    kernel = write_kernel(tmp_path, code)
    return MachineProcess("-kernel", str(kernel), "-serial", "stdio", *argv)


def test_a_payload_speaks_on_the_serial_port_and_powers_off(tmp_path: Path) -> None:
    kernel = write_kernel(tmp_path, say("hello from the guest\n") + POWER_OFF + BUSY)
    done = run_to_end("-kernel", str(kernel), "-serial", "stdio")
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello from the guest\n", "")


@pytest.mark.parametrize(
    ("code", "reason"), [(POWER_OFF + BUSY, "guest-shutdown"), (RESET + BUSY, "guest-reset")]
)
def test_the_guests_end_is_an_event_and_status_0(tmp_path: Path, code: bytes, reason: str) -> None:
    path = tmp_path / "qmp"
    with boot(tmp_path, code, "-qmp", f"unix:{path},server,nowait", "-S") as machine:
        with QmpClient(path) as client:
            client.cmd("cont")
            assert client.wait_event("SHUTDOWN")["data"] == {"guest": True, "reason": reason}
            assert machine.wait() == 0
    assert {entry.name for entry in tmp_path.iterdir()} == NOTHING_LEFT


def test_a_triple_fault_resets_and_is_logged_in_one_line_with_registers(tmp_path: Path) -> None:
    kernel = write_kernel(tmp_path, say("x") + CRASH)
    done = run_to_end("-kernel", str(kernel), "-serial", "stdio", "-D")
    assert done.returncode == 0 and done.stdout == "x"
    (line,) = done.stderr.splitlines()
    assert "vCPU 0: triple fault" in line and " rip=10000" in line and " cr3=9000" in line


def test_writes_to_every_port_and_to_nothing_are_survived(tmp_path: Path) -> None:
    code = PAYLOADS.poke_around + say("alive\n") + POWER_OFF + BUSY
    kernel = write_kernel(tmp_path, code)
    done = run_to_end("-kernel", str(kernel), "-serial", "stdio")
    assert done.returncode == 0 and done.stdout.endswith("alive\n")


def test_a_paused_machine_does_nothing_until_it_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    with boot(tmp_path, PAYLOADS.say_forever("."), "-qmp", f"unix:{path},server,nowait") as machine:
        with QmpClient(path) as client:
            machine.expect(r"\.")
            for _ in range(5):
                client.cmd("stop")
                assert client.cmd("query-status")["status"] == "paused"
                time.sleep(0.2)
                machine._drain()
                before = len(machine.console)
                time.sleep(0.3)
                machine._drain()
                assert len(machine.console) == before
                client.cmd("cont")
                machine._mark = before
                machine.expect(r"\.")
            client.cmd("quit")
            assert machine.wait() == 0


def test_a_busy_vcpu_is_kicked_out_at_once(tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    with boot(tmp_path, say("on\n") + BUSY, "-qmp", f"unix:{path},server,nowait") as machine:
        with QmpClient(path) as client:
            machine.expect("on")
            for _ in range(20):
                client.cmd("stop")
                client.cmd("cont")
            assert client.cmd("query-status")["running"] is True
            assert machine.terminate() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_machine_and_leaves_nothing(
    tmp_path: Path, number: signal.Signals
) -> None:
    path, pidfile = tmp_path / "qmp", tmp_path / "pid"
    options = ("-qmp", f"unix:{path},server,nowait", "-pidfile", str(pidfile))
    with boot(tmp_path, say("on\n") + SPIN, *options) as machine:
        machine.expect("on")
        assert pidfile.read_text() == f"{machine.process.pid}\n"
        assert machine.terminate(number) == 0
    assert {entry.name for entry in tmp_path.iterdir()} == NOTHING_LEFT


def test_a_socket_left_by_a_killed_machine_is_replaced_and_a_live_one_is_not(
    tmp_path: Path,
) -> None:
    path = tmp_path / "qmp"
    option = ("-qmp", f"unix:{path},server,nowait")
    # Without a filter there is no broker that would clear away.
    with boot(tmp_path, say("on\n") + SPIN, *option, "-disable-seccomp") as machine:
        wait_listening(path)
        machine.process.kill()
    assert path.exists()
    with boot(tmp_path, say("on\n") + SPIN, *option) as machine:
        wait_listening(path)
        done = run_to_end("-kernel", str(tmp_path / "payload.elf"), *option)
        assert done.returncode == 1
        assert done.stderr == (
            f"stratovirt: -qmp unix:{path}: cannot listen on {path}: Address already in use\n"
        )
        assert machine.terminate() == 0


def test_several_vcpus_are_created_and_listed_with_their_threads(tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    option = ("-qmp", f"unix:{path},server,nowait", "-smp", "4")
    with boot(tmp_path, say("on\n") + SPIN, *option) as machine, QmpClient(path) as client:
        machine.expect("on")
        cpus = client.cmd("query-cpus-fast")
        threads = {cpu["thread-id"] for cpu in cpus}
        assert len(cpus) == 4 and len(threads) == 4
        tasks = {int(task) for task in os.listdir(f"/proc/{machine.process.pid}/task")}
        assert threads <= tasks
        assert machine.terminate() == 0


def test_the_terminal_is_raw_while_running_and_as_before_afterwards(tmp_path: Path) -> None:
    import pty
    import subprocess
    import termios

    from tests.machine_process import COMMAND

    kernel = write_kernel(tmp_path, say("on\n") + SPIN)
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    for leave in (b"\x01x", None):
        process = subprocess.Popen(
            [*COMMAND, "-kernel", str(kernel), "-serial", "stdio"],
            stdin=slave, stdout=slave, stderr=subprocess.PIPE,
        )  # fmt: skip
        shown = b""
        while b"on" not in shown:
            shown += os.read(master, 100)
        assert not termios.tcgetattr(slave)[3] & termios.ICANON
        if leave is not None:
            os.write(master, leave)
        else:
            process.terminate()
        assert process.wait(30) == 0
        assert termios.tcgetattr(slave) == before
        assert process.stderr is not None and process.stderr.read() == b""
        process.stderr.close()
    os.close(master)
    os.close(slave)


def test_mistakes_at_start_are_one_line_and_leave_nothing(tmp_path: Path) -> None:
    kernel = write_kernel(tmp_path, SPIN)
    notes = tmp_path / "notes.txt"
    notes.write_text("no kernel\n" * 100)
    qmp = ("-qmp", f"unix:{tmp_path}/qmp,server,nowait")
    cases = [
        (("-kernel", str(tmp_path / "none")), "cannot open: No such file or directory"),
        (("-kernel", str(notes)), "not a Linux kernel"),
        (("-kernel", str(kernel), "-initrd", str(tmp_path / "none")), "cannot open"),
        (("-kernel", str(kernel), "-append", "x" * 3000), "takes at most 2047"),
        (("-kernel", str(kernel), "-m", "1"), "must be a size from 256M to 512G"),
        (("-kernel", str(kernel), "-serial", f"file,path={tmp_path}/no/file"), "cannot open"),
        (("-append", "x"), "needs -kernel"),
        ((), "-kernel is missing"),
    ]
    for argv, message in cases:
        done = run_to_end(*argv, *qmp)
        assert done.returncode == 1 and done.stdout == ""
        assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("stratovirt: -")
        assert message in done.stderr
        assert {entry.name for entry in tmp_path.iterdir()} == {"payload.elf", "notes.txt"}


def test_no_kvm_device_and_no_permission_are_told_apart(tmp_path: Path) -> None:
    import subprocess

    from tests.machine_process import COMMAND

    kernel, command = write_kernel(tmp_path, SPIN), shlex.join(COMMAND)
    for prepare, message in (
        ("mount -t tmpfs none /dev", "/dev/kvm does not exist"),
        ("mount --bind /dev/null /dev/kvm", "/dev/kvm speaks API version -1"),
    ):
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", f"{prepare} && exec {command} -kernel {kernel}"],
            capture_output=True, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 1
        assert done.stderr.startswith("stratovirt: -accel kvm: ") and message in done.stderr
        assert len(done.stderr.splitlines()) == 1


# mov eax, 0x20000000; jmp rax: mapped by the page tables, but beyond the RAM, so that there is no
# instruction to fetch and KVM gives up.
def test_a_vcpu_that_kvm_gives_up_on_ends_the_machine_with_one_line(tmp_path: Path) -> None:
    kernel = write_kernel(tmp_path, say("x") + PAYLOADS.leave_ram)
    done = run_to_end("-kernel", str(kernel), "-serial", "stdio")
    assert (done.returncode, done.stdout) == (1, "x")
    (line,) = done.stderr.splitlines()
    assert "KVM internal error" in line and " rip=20000000 " in line


def test_with_a_monitor_it_can_be_looked_at_and_ended(tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    option = ("-qmp", f"unix:{path},server,nowait", "-S")
    with (
        boot(tmp_path, say("x") + PAYLOADS.leave_ram, *option) as machine,
        QmpClient(path) as client,
    ):
        client.cmd("cont")
        assert client.wait_event("STOP")
        assert client.cmd("query-status") == {
            "running": False,
            "singlestep": False,
            "status": "internal-error",
        }
        for command in ("cont", "system_reset"):
            with pytest.raises(ExecuteError, match="in state internal-error and cannot"):
                client.cmd(command)
        client.cmd("quit")
        assert machine.wait() == 0
