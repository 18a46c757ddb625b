"""Where snapshots are written and read: links, planted folders, files that are none of ours."""

import fcntl
import hashlib
import json
import os
import signal
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from tests.kvm.test_snapshot import (
    Saved,
    begin,
    earlier_one_is_intact,
    large,
    options,
    refusal,
    save,
    saved,
)
from tests.machine_process import PATIENCE, MachineProcess

__all__ = ["large", "saved"]


def test_a_link_to_a_folder_is_followed_once_and_stays_a_link(saved: Saved, tmp_path: Path) -> None:
    link, folder = tmp_path / "latest", saved.folder
    link.symlink_to(folder)
    first = (folder / "state").stat().st_ino
    assert save(saved.qmp, link)["status"] == "completed"
    assert link.readlink() == folder
    assert (folder / "state").stat().st_ino != first
    assert sorted(entry.name for entry in folder.iterdir()) == ["memory", "state"]
    with MachineProcess(*options(tmp_path), "-incoming", f"file:{link}") as clone:
        clone.expect("BCDEF")


def test_a_planted_link_empties_nobodys_folder(saved: Saved, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "memory").write_bytes(b"somebody's")
    (tmp_path / ".new.partial").symlink_to(victim)
    with pytest.raises(Exception, match=r"\.new\.partial is not a folder of ours; remove it"):
        saved.qmp.cmd("migrate", uri=f"file:{tmp_path}/new")
    assert (victim / "memory").read_bytes() == b"somebody's"
    assert not (tmp_path / "new").exists()


def test_a_draft_that_holds_other_things_is_left_alone(saved: Saved, tmp_path: Path) -> None:
    partial = tmp_path / ".new.partial"
    partial.mkdir()
    (partial / "letter").write_text("dear")
    (partial / "state").write_text("of affairs")
    with pytest.raises(Exception, match="holds other things than a snapshot, letter"):
        saved.qmp.cmd("migrate", uri=f"file:{tmp_path}/new")
    assert sorted(entry.name for entry in partial.iterdir()) == ["letter", "state"]


@pytest.mark.parametrize("name", ["state", "memory"])
def test_a_link_or_a_pipe_in_the_place_of_a_file_is_refused(
    saved: Saved, tmp_path: Path, name: str
) -> None:
    file = saved.folder / name
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    assert f"{name}: Too many levels of symbolic links" in refusal(tmp_path, saved.folder)
    file.unlink()
    os.mkfifo(file)
    assert f"{name} is not a regular file" in refusal(tmp_path, saved.folder)


def write_state(folder: Path, text: bytes) -> None:
    """A state whose header fits its body."""
    head = struct.pack("<8sIxxxxQ32s", b"SVSTATE", 2, len(text), hashlib.sha256(text).digest())
    (folder / "state").write_bytes(head + text)


def test_a_state_of_millions_of_values_is_refused_before_it_is_read(
    saved: Saved, tmp_path: Path
) -> None:
    write_state(saved.folder, b"[" + b"[]," * (20 << 20) + b"[]]")
    before = time.monotonic()
    assert "state has more than 524288 values" in refusal(tmp_path, saved.folder)
    assert time.monotonic() - before < PATIENCE / 3


def body_of(folder: Path) -> dict[str, Any]:
    body = json.loads((folder / "state").read_bytes()[56:])
    assert isinstance(body, dict)
    return body


def test_a_clock_past_every_age_is_refused(saved: Saved, tmp_path: Path) -> None:
    body = body_of(saved.folder)
    body["clock"]["state"]["clock"] = (1 << 64) - 1
    write_state(saved.folder, json.dumps(body).encode())
    assert (
        "clock must be a number from 0 to 4611686018427387904, not 18446744073709551615"
        in refusal(tmp_path, saved.folder)
    )


def test_names_of_a_file_are_shown_escaped_and_short(saved: Saved, tmp_path: Path) -> None:
    body = body_of(saved.folder)
    body["\x1b]0;owned\x07" + "x" * 100_000] = 1
    write_state(saved.folder, json.dumps(body).encode())
    told = refusal(tmp_path, saved.folder)
    assert told.removesuffix("\n").isprintable()
    assert r"\x1b]0;owned\x07xxx" in told
    assert len(told) < 1100


def test_a_machine_that_rests_is_saved_alike_each_time(saved: Saved, tmp_path: Path) -> None:
    # What differs is time alone: no bytes of the saving process are in it.
    assert save(saved.qmp, tmp_path / "again")["status"] == "completed"
    one, other = body_of(saved.folder), body_of(tmp_path / "again")
    for body in (one, other):
        del body["clock"]["state"]
    assert one == other


@pytest.mark.needs_filter
def test_a_broker_that_dies_fails_the_snapshot_and_the_machine_ends_when_asked(
    large: Saved, tmp_path: Path
) -> None:
    begin(large)
    pid = large.machine.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    assert len(children) == 1
    os.kill(int(children[0]), signal.SIGKILL)
    large.machine.terminate()
    assert b"the broker process has died; nothing can be opened" in large.machine.errors
    assert b"internal error" not in large.machine.errors
    assert earlier_one_is_intact(large, tmp_path)


def test_two_snapshots_to_one_place_at_once_are_refused(saved: Saved, tmp_path: Path) -> None:
    partial = tmp_path / ".new.partial"
    partial.mkdir()
    other = os.open(partial, os.O_RDONLY)
    try:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(Exception, match="another snapshot is being written there"):
            saved.qmp.cmd("migrate", uri=f"file:{tmp_path}/new")
    finally:
        os.close(other)
    assert save(saved.qmp, tmp_path / "new")["status"] == "completed"
