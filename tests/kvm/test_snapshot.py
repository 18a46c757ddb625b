"""Snapshots of tiny guests: what was saved goes on, as often as it is started."""

import itertools
import os
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machine_process import PATIENCE, MachineProcess, QmpClient, run_to_end, wait_until
from tests.payload import PAYLOADS, say, write_kernel

MIB = 1 << 20

COUNTER = PAYLOADS.count(2 * MIB)
LETTERS = b"ABCDEFGHIJKLMNOP"


class Saved:
    """A template and the machine it was taken from."""

    def __init__(self, folder: Path, machine: MachineProcess, qmp: QmpClient) -> None:
        self.folder, self.machine, self.qmp = folder, machine, qmp


def save(qmp: QmpClient, folder: Path) -> dict[str, object]:
    """Take a snapshot of a paused machine; the outcome."""
    qmp.cmd("migrate", uri=f"file:{folder}")
    deadline = time.monotonic() + PATIENCE
    while (info := qmp.cmd("query-migrate"))["status"] in ("setup", "active"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return dict(info)


def options(tmp_path: Path) -> list[str]:
    kernel = write_kernel(tmp_path, say("on\n") + COUNTER)
    return ["-kernel", str(kernel), "-serial", "stdio", "-m", "256M"]


@pytest.fixture
def saved(tmp_path: Path) -> Iterator[Saved]:
    path, folder = tmp_path / "qmp", tmp_path / "template"
    with (
        MachineProcess(*options(tmp_path), "-qmp", f"unix:{path},server,nowait") as machine,
        QmpClient(path) as qmp,
    ):
        machine.expect("on\nBCDEFGHIJKLMNOPA")
        qmp.cmd("stop")
        info = save(qmp, folder)
        assert info["status"] == "completed", info
        yield Saved(folder, machine, qmp)


def letters_follow(text: bytes) -> bool:
    return all((b - ord("A")) == (a - ord("A") + 1) % 16 for a, b in itertools.pairwise(text))


def test_clones_go_on_where_the_template_was_saved(saved: Saved, tmp_path: Path) -> None:
    machine, qmp = saved.machine, saved.qmp
    assert qmp.cmd("query-status")["status"] == "postmigrate"
    machine._drain()
    before = machine.console
    for _ in range(3):
        with MachineProcess(*options(tmp_path), "-incoming", f"file:{saved.folder}") as clone:
            found = clone.expect("(?s).{64}")
            # The very next letter, and no letter twice or missing.
            assert letters_follow(before[-16:] + found[0])
    # The template's machine goes on too, and its own memory is untouched by the clones.
    qmp.cmd("cont")
    machine._mark = len(before)
    assert letters_follow(before[-16:] + machine.expect("(?s).{64}")[0])


def test_the_memory_file_is_sparse_and_only_read(saved: Saved, tmp_path: Path) -> None:
    memory = saved.folder / "memory"
    stat = memory.stat()
    assert stat.st_size == 256 * MIB
    assert stat.st_blocks * 512 < MIB
    content = memory.read_bytes()
    with MachineProcess(*options(tmp_path), "-incoming", f"file:{saved.folder}") as clone:
        clone.expect("(?s).{64}")
    assert memory.read_bytes() == content
    assert memory.stat().st_blocks == stat.st_blocks
    assert {entry.name for entry in saved.folder.iterdir()} == {"state", "memory"}
    assert (saved.folder / "state").stat().st_mode & 0o777 == 0o600


def test_a_clone_can_be_the_next_template(saved: Saved, tmp_path: Path) -> None:
    path, second = tmp_path / "qmp2", tmp_path / "second"
    argv = [*options(tmp_path), "-qmp", f"unix:{path},server,nowait"]
    with (
        MachineProcess(*argv, "-incoming", f"file:{saved.folder}", "-S") as clone,
        QmpClient(path) as qmp,
    ):
        assert qmp.cmd("query-status")["status"] == "prelaunch"
        qmp.cmd("cont")
        clone.expect("(?s).{64}")
        qmp.cmd("stop")
        assert save(qmp, second)["status"] == "completed"
        clone._drain()
        last = clone.console[-16:]
    with MachineProcess(*options(tmp_path), "-incoming", f"file:{second}") as grandchild:
        assert letters_follow(last + grandchild.expect("(?s).{64}")[0])


def test_a_snapshot_takes_the_place_of_an_earlier_one(saved: Saved) -> None:
    qmp = saved.qmp
    first = (saved.folder / "state").stat().st_ino
    qmp.cmd("cont")
    qmp.cmd("stop")
    assert save(qmp, saved.folder)["status"] == "completed"
    assert (saved.folder / "state").stat().st_ino != first
    assert [entry.name for entry in saved.folder.parent.iterdir() if "partial" in entry.name] == []


def test_what_cannot_be_saved_is_refused_and_leaves_nothing(saved: Saved, tmp_path: Path) -> None:
    qmp = saved.qmp
    occupied = tmp_path / "occupied"
    occupied.mkdir()
    (occupied / "letter").write_text("dear")
    for uri, text in (
        (f"file:{occupied}", "holds other things than a snapshot, letter"),
        (f"file:{tmp_path}/qmp", "is not a folder"),
        ("tcp:host:1", "uri must be file:PATH"),
        (f"file:{tmp_path}/no/template", "No such file or directory"),
    ):
        with pytest.raises(Exception, match=text):
            qmp.cmd("migrate", uri=uri)
    qmp.cmd("cont")
    with pytest.raises(Exception, match="pause it first"):
        qmp.cmd("migrate", uri=f"file:{tmp_path}/other")
    assert not (tmp_path / "other").exists()
    assert list(occupied.iterdir()) == [occupied / "letter"]


def refusal(tmp_path: Path, folder: Path, *argv: str) -> str:
    done = run_to_end(*(argv or options(tmp_path)), "-incoming", f"file:{folder}")
    assert done.returncode == 1, done
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_a_command_line_that_does_not_fit_is_refused_by_name(saved: Saved, tmp_path: Path) -> None:
    kernel, serial = options(tmp_path)[:2], ["-serial", "stdio"]
    image = tmp_path / "disk"
    image.write_bytes(bytes(MIB))
    disk = ["-drive", f"id=d,file={image},direct=off", "-device", "virtio-blk-device,drive=d"]
    for argv, text in (
        ([*kernel, *serial, "-m", "512M"], "-m is 512M and the snapshot's machine has 256M"),
        ([*kernel, *serial, "-m", "256M", "-smp", "2"], "-smp is cpus=2"),
        ([*kernel, "-m", "256M"], "machine has serial (-serial) and this one has none"),
        (
            [*kernel, *serial, "-m", "256M", *disk],
            "this machine has a device peripheral-anon/virtio-blk-device[0] (virtio-blk-device) "
            "and the snapshot's has none",
        ),
    ):
        assert text in refusal(tmp_path, saved.folder, *argv)


def test_damaged_snapshots_are_refused_in_one_line(saved: Saved, tmp_path: Path) -> None:
    state, memory = saved.folder / "state", saved.folder / "memory"
    sound = state.read_bytes()
    for content, text in (
        (b"", "not the state of a machine"),
        (sound[:-1], "bytes where it announces"),
        (sound[:30], "not the state of a machine"),
        (sound[:-9] + bytes([sound[-9] ^ 1]) + sound[-8:], "checksum"),
        (sound + b"x", "goes on behind its announced end"),
        (sound[:8] + struct.pack("<I", 1) + sound[12:], "format 1; this program reads format 2"),
        (sound[:8] + struct.pack("<I", 9) + sound[12:], "format 9"),
        (os.urandom(4096), "not the state of a machine"),
    ):
        state.write_bytes(content)
        assert text in refusal(tmp_path, saved.folder)
    state.write_bytes(sound)
    os.truncate(memory, 255 * MIB)
    assert "memory has" in refusal(tmp_path, saved.folder)
    memory.unlink()
    assert "memory: No such file" in refusal(tmp_path, saved.folder)
    assert "nowhere: No such file" in refusal(tmp_path, tmp_path / "nowhere")


@pytest.fixture
def large(tmp_path: Path) -> Iterator[Saved]:
    """A machine that was saved when it was small, and is paused now that it is large."""
    path, folder = tmp_path / "qmp", tmp_path / "place" / "template"
    folder.parent.mkdir()
    argv = [*options(tmp_path), "-machine", "microvm,mem-share=on"]
    with (
        MachineProcess(*argv, "-qmp", f"unix:{path},server,nowait") as machine,
        QmpClient(path) as qmp,
    ):
        machine.expect("BCDEF")
        qmp.cmd("stop")
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", str(folder.parent)], check=True
        )
        try:
            assert save(qmp, folder)["status"] == "completed"
            # The event comes after the status: a test that waits for the next must not get this.
            assert qmp.wait_event("MIGRATION")["data"] == {"status": "completed"}
            fill_memory(machine.process.pid)
            yield Saved(folder, machine, qmp)
        finally:
            subprocess.run(["umount", "-l", str(folder.parent)], check=True)


def fill_memory(pid: int) -> None:
    """Let there be something in 224 MiB of a machine's shared RAM."""
    folder = Path(f"/proc/{pid}/fd")
    ram = next(fd for fd in folder.iterdir() if "stratovirt-ram" in str(fd.readlink()))
    with ram.open("r+b", buffering=0) as memory:
        memory.seek(16 * MIB)
        for _ in range(224):
            memory.write(b"\xa5" * MIB)


def earlier_one_is_intact(large: Saved, tmp_path: Path) -> bool:
    argv = [*options(tmp_path), "-machine", "microvm,mem-share=on"]
    with MachineProcess(*argv, "-incoming", f"file:{large.folder}") as clone:
        return letters_follow(clone.expect("(?s).{64}")[0])


def test_a_full_disk_leaves_the_earlier_snapshot_and_the_machine(
    large: Saved, tmp_path: Path
) -> None:
    info = save(large.qmp, large.folder)
    assert info["status"] == "failed"
    assert "No space left on device" in str(info["error-desc"])
    assert [entry.name for entry in large.folder.parent.iterdir()] == ["template"]
    assert earlier_one_is_intact(large, tmp_path)
    large.qmp.cmd("cont")
    large.machine._drain()
    large.machine._mark = len(large.machine.console)
    assert letters_follow(large.machine.expect("(?s).{64}")[0])


def begin(large: Saved) -> None:
    """Start a snapshot and wait until some of it is written."""
    large.qmp.cmd("migrate", uri=f"file:{large.folder}")
    wait_until(lambda: large.qmp.cmd("query-migrate")["ram"]["transferred"] > MIB, "it writes")


def test_a_cancelled_snapshot_leaves_nothing(large: Saved, tmp_path: Path) -> None:
    large.qmp.cmd("migrate", uri=f"file:{large.folder}")
    with pytest.raises(Exception, match="a snapshot is being written"):
        large.qmp.cmd("cont")
    large.qmp.cmd("migrate_cancel")
    wait_until(lambda: large.qmp.cmd("query-migrate")["status"] == "canceled", "it ends")
    assert [entry.name for entry in large.folder.parent.iterdir()] == ["template"]
    assert earlier_one_is_intact(large, tmp_path)
    large.qmp.cmd("cont")
    assert large.qmp.cmd("query-status")["running"]


@pytest.mark.needs_filter
def test_a_sudden_death_leaves_the_earlier_snapshot(large: Saved, tmp_path: Path) -> None:
    begin(large)
    large.machine.process.kill()
    large.machine.process.wait()
    assert earlier_one_is_intact(large, tmp_path)
    partial = large.folder.parent / ".template.partial"
    wait_until(lambda: not partial.exists(), "the broker clears it away")


def test_what_a_broken_down_host_leaves_is_cleared_away_by_the_next_snapshot(
    large: Saved, tmp_path: Path
) -> None:
    partial = large.folder.parent / ".template.partial"
    partial.mkdir()
    (partial / "memory").write_bytes(b"half")
    path = tmp_path / "qmp2"
    argv = [*options(tmp_path), "-qmp", f"unix:{path},server,nowait", "-S"]
    with MachineProcess(*argv), QmpClient(path) as qmp:
        assert save(qmp, large.folder)["status"] == "completed"
    assert not partial.exists()
