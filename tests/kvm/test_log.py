"""What is told at each log level, where it goes, and the names of the threads."""

import os
import subprocess
from pathlib import Path

from tests.machine_process import COMMAND, PATIENCE, MachineProcess, QmpClient, run_to_end
from tests.payload import BUSY, CRASH, POWER_OFF, RESET, SPIN, say, write_kernel


def logged(tmp_path: Path, level: str, code: bytes = say("hi") + POWER_OFF + BUSY) -> list[str]:
    log = tmp_path / "log"
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(4096))
    done = subprocess.run(
        [
            *COMMAND, "-D", str(log), "-kernel", str(write_kernel(tmp_path, code)),
            "-qmp", f"unix:{tmp_path}/qmp,server,nowait", "-serial", "stdio",
            "-drive", f"id=d,file={disk},direct=off", "-device", "virtio-blk-device,drive=d,id=vda",
        ],
        env={**os.environ, "STRATOVIRT_LOG_LEVEL": level},
        capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "hi", "")
    return log.read_text().splitlines()


def test_info_tells_a_machines_life_in_about_a_dozen_lines(tmp_path: Path) -> None:
    lines = logged(tmp_path, "info")
    assert 6 <= len(lines) <= 14 and {line.split()[1] for line in lines} == {"info"}
    life = iter(lines)
    for step in (
        ": microvm, 1 vCPUs, 256 MiB, accelerator kvm, process ", "virtio devices: vda",
        "the kernel ", "a monitor is there: -qmp unix:", "in state running",
        "the machine ends: guest-shutdown", "the machine is gone",
    ):  # fmt: skip
        assert any(step in line for line in life), (step, lines)


def test_trace_adds_the_trace_events_to_what_debug_tells(tmp_path: Path) -> None:
    lines = logged(tmp_path, "debug")
    assert any("debug chardev.backend: chardev serial0: a peer is there" in ln for ln in lines)
    assert not any(" trace " in line for line in lines)
    lines = logged(tmp_path, "trace")
    assert any(line.endswith(" trace vm_status status=running") for line in lines)
    assert any(" trace kvm_exit vcpu=0" in line for line in lines)
    assert any(" debug " in line for line in lines)


def test_without_a_log_nothing_of_a_machines_life_reaches_stderr(tmp_path: Path) -> None:
    for code in (CRASH, RESET + BUSY, POWER_OFF + BUSY):
        done = subprocess.run(
            [*COMMAND, "-kernel", str(write_kernel(tmp_path, code)), "-serial", "stdio"],
            env={**os.environ, "STRATOVIRT_LOG_LEVEL": "trace"},
            capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")


def test_trace_events_that_nothing_takes_are_refused(tmp_path: Path) -> None:
    events = tmp_path / "events"
    events.write_text("kvm_exit\n")
    done = run_to_end("-machine", "none", "-trace", f"events={events}")
    if os.access("/sys/kernel/tracing/trace_marker", os.W_OK):
        assert done.stderr == ""
    else:
        assert done.returncode == 1
        assert done.stderr.startswith(f"stratovirt: -trace events={events}: trace events have now")


def test_a_silent_machine_says_so_in_one_line(tmp_path: Path) -> None:
    kernel = str(write_kernel(tmp_path, POWER_OFF + BUSY))
    done = run_to_end("-kernel", kernel)
    assert (done.returncode, done.stderr) == (
        0, "stratovirt: this machine is silent: it has no -serial, no monitor and no console\n",
    )  # fmt: skip
    console = ("-chardev", "pty,id=c", "-device", "virtio-serial-device")
    for more in (
        ("-serial", "stdio"), ("-qmp", f"unix:{tmp_path}/qmp,server,nowait"),
        (*console, "-device", "virtconsole,chardev=c"),
    ):  # fmt: skip
        assert run_to_end("-kernel", kernel, *more).stderr == ""


def test_a_host_whose_kvm_cannot_run_stock_kernels_is_warned_of(tmp_path: Path) -> None:
    kernel = write_kernel(tmp_path, POWER_OFF + BUSY)
    with kernel.open("ab") as file:
        file.truncate(1 << 20)
    done = run_to_end("-kernel", str(kernel), "-serial", "stdio")
    assert done.returncode == 0
    warned = "stratovirt: warning: this host's KVM works by page tables" in done.stderr
    assert warned == Path("/sys/module/kvm_pvm").exists()
    assert len(done.stderr.splitlines()) == int(warned)


def test_each_thread_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    kernel = write_kernel(tmp_path, say("on\n") + SPIN)
    with MachineProcess(
        "-kernel", str(kernel), "-serial", "stdio", "-smp", "2",
        "-object", "iothread,id=iothread1", "-qmp", f"unix:{path},server,nowait",
    ) as machine, QmpClient(path) as client:  # fmt: skip
        machine.expect("on")
        tasks = Path(f"/proc/{machine.process.pid}/task")
        names = {int(task.name): (task / "comm").read_text()[:-1] for task in tasks.iterdir()}
        for cpu in client.cmd("query-cpus-fast"):
            assert names[cpu["thread-id"]] == f"vcpu{cpu['cpu-index']}"
        (iothread,) = client.cmd("query-iothreads")
        assert names[iothread["thread-id"]] == "iothread1"
        assert len(names) == len(set(names.values()))
