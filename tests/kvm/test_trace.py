"""Trace events: asked for by file or at run time, seen in the log, refused when unknown."""

from pathlib import Path

import pytest
from qemu.qmp.qmp_client import ExecuteError

from stratovirt._native.trace_events import EVENTS
from tests.machine_process import MachineProcess, QmpClient, run_to_end
from tests.payload import BUSY, POWER_OFF, SPIN, say, write_kernel


def test_the_events_are_listed() -> None:
    done = run_to_end("-trace", "help")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(EVENTS)
    assert "KVM_RUN came back, with linux/kvm.h's reason: vcpu (uint), reason (uint)" in done.stdout


def test_events_named_in_a_file_are_traced_and_others_are_not(tmp_path: Path) -> None:
    events, log = tmp_path / "events", tmp_path / "log"
    events.write_text("# what this test wants\nkvm_exit\nvm_*\n\n")
    kernel = write_kernel(tmp_path, say("hi") + POWER_OFF + BUSY)
    done = run_to_end(
        "-kernel", str(kernel), "-serial", "stdio", "-D", str(log), "-trace", f"events={events}"
    )
    assert done.returncode == 0
    lines = log.read_text().splitlines()
    assert any(line.endswith(" trace vm_status status=running") for line in lines)
    # KVM_EXIT_IO is 2: two letters and the power-off.
    assert sum(line.endswith(" trace kvm_exit vcpu=0 reason=2") for line in lines) >= 3
    assert not any("io_python" in line for line in lines)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [("kvm_exit\nno_such_event\n", "line 2: no trace event is called 'no_such_event'"),
     (None, "cannot read: No such file or directory")],
)  # fmt: skip
def test_a_wrong_list_of_events_is_a_mistake(
    tmp_path: Path, content: str | None, complaint: str
) -> None:
    events = tmp_path / "events"
    if content is not None:
        events.write_text(content)
    done = run_to_end("-machine", "none", "-trace", f"events={events}", "-D")
    assert done.returncode == 1
    assert done.stderr.startswith(f"stratovirt: -trace events={events}: {complaint}")
    assert len(done.stderr.splitlines()) == 1


def test_events_are_switched_at_run_time(tmp_path: Path) -> None:
    path, log = tmp_path / "qmp", tmp_path / "log"
    kernel = write_kernel(tmp_path, say("on\n") + SPIN)
    with MachineProcess(
        "-kernel", str(kernel), "-serial", "stdio", "-D", str(log),
        "-qmp", f"unix:{path},server,nowait",
    ) as machine, QmpClient(path) as client:  # fmt: skip
        machine.expect("on")
        states = {e["name"]: e["state"] for e in client.cmd("trace-get-state", name="*")}
        assert states == dict.fromkeys(EVENTS, "disabled")
        client.cmd("trace-set-state", name="qmp_*", enable=True)
        found = client.cmd("trace-get-state", name="qmp_command")
        assert found == [{"name": "qmp_command", "state": "enabled"}]
        client.cmd("stop")
        client.cmd("trace-set-state", name="qmp_*", enable=False)
        client.cmd("cont")
        with pytest.raises(ExecuteError, match="no trace event is called 'dance'"):
            client.cmd("trace-get-state", name="dance")
        text = log.read_text()
        assert "qmp_command command=stop" in text and "qmp_event event=STOP" in text
        assert "command=cont" not in text and "RESUME" not in text
