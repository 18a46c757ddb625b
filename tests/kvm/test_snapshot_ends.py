"""The end of a machine whose snapshot is being written: it waits, or says what is lost."""

import json
import signal
import socket
from pathlib import Path
from typing import Any

from tests.kvm.test_snapshot import (
    Saved,
    earlier_one_is_intact,
    large,
    letters_follow,
    options,
)
from tests.machine_process import PATIENCE, MachineProcess, wait_until

__all__ = ["large"]


def say_in_one_breath(saved: Saved, path: Path, *commands: dict[str, object]) -> list[Any]:
    """Send all commands at once; the events that come until the machine hangs up."""
    saved.qmp.__exit__()
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(str(path))
        client.sendall(b"".join(json.dumps(command).encode() + b"\n" for command in commands))
        with client.makefile() as said:
            lines = [json.loads(line) for line in said]
    return [(line["event"], line.get("data")) for line in lines if "event" in line]


def migrate_to(folder: Path) -> dict[str, object]:
    return {"execute": "migrate", "arguments": {"uri": f"file:{folder}"}}


def test_stop_migrate_and_quit_in_one_breath_leave_a_whole_snapshot(
    large: Saved, tmp_path: Path
) -> None:
    large.qmp.cmd("cont")
    folder = tmp_path / "whole"
    said = say_in_one_breath(
        large, tmp_path / "qmp",
        {"execute": "stop"}, migrate_to(folder), {"execute": "quit"},
    )  # fmt: skip
    ended = {"guest": False, "reason": "host-qmp-quit"}
    assert said == [
        ("STOP", None), ("MIGRATION", {"status": "completed"}), ("SHUTDOWN", ended)
    ]  # fmt: skip
    assert large.machine.wait() == 0 and large.machine.errors == b""
    argv = [*options(tmp_path), "-machine", "microvm,mem-share=on"]
    with MachineProcess(*argv, "-incoming", f"file:{folder}") as clone:
        assert letters_follow(clone.expect("(?s).{64}")[0])


def test_a_signal_waits_for_the_snapshot(large: Saved, tmp_path: Path) -> None:
    large.qmp.cmd("migrate", uri=f"file:{tmp_path / 'whole'}")
    assert large.machine.terminate() == 0
    assert (tmp_path / "whole" / "state").exists() and large.machine.errors == b""


def test_a_snapshot_that_fails_says_so_and_in_the_status_of_a_machine_that_was_to_end(
    large: Saved, tmp_path: Path
) -> None:
    large.qmp.events()
    large.qmp.cmd("migrate", uri=f"file:{large.folder}")
    data = large.qmp.wait_event("MIGRATION")["data"]
    assert data["status"] == "failed"
    assert data["error-desc"] == f"{large.folder}: No space left on device"
    said = say_in_one_breath(
        large, tmp_path / "qmp", migrate_to(large.folder), {"execute": "quit"}
    )  # fmt: skip
    assert [name for name, _ in said] == ["MIGRATION", "SHUTDOWN"]
    assert large.machine.wait() == 1
    line = f"snapshot {large.folder}: No space left on device"
    assert large.machine.errors.decode().count(line) == 2
    assert earlier_one_is_intact(large, tmp_path)


def test_a_second_signal_gives_the_snapshot_up_and_says_so(large: Saved, tmp_path: Path) -> None:
    large.qmp.events()
    large.qmp.cmd("migrate", uri=f"file:{large.folder}")
    # Both come while it stands still: the snapshot is no further then.
    for number in (signal.SIGSTOP, signal.SIGINT, signal.SIGTERM, signal.SIGCONT):
        large.machine.process.send_signal(number)
    assert large.qmp.wait_event("MIGRATION")["data"] == {"status": "canceled"}
    assert large.machine.wait() == 1
    assert "the snapshot that is being written is given up" in large.machine.errors.decode()
    assert [entry.name for entry in large.folder.parent.iterdir()] == ["template"]
    assert earlier_one_is_intact(large, tmp_path)


def test_a_snapshot_that_is_cancelled_lets_the_end_come(large: Saved) -> None:
    large.qmp.cmd("migrate", uri=f"file:{large.folder}")
    large.qmp.cmd("quit")
    large.qmp.cmd("migrate_cancel")
    assert large.machine.wait() == 1
    wait_until(lambda: not (large.folder.parent / ".template.partial").exists(), "it is cleared")
