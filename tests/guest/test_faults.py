"""What the host does wrong, and what the guest sees of it: that request's error and no more."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.conftest import APPEND, Boot, GuestFiles, Tools
from tests.machine_process import MachineProcess, wait_until

MIB = 1 << 20
ROUNDS = 11
"""Pairs of measurements of which the median counts: single ones scatter in the lab."""
NULL_BLK = Path("/sys/kernel/config/nullb")


@pytest.fixture
def bad_disk() -> Iterator[Path]:
    """A disk of 16 MiB with 256 KiB from 1 MiB on that cannot be read or written."""
    folder = NULL_BLK / "bad"
    folder.mkdir()
    for name, value in (
        ("size", "16"), ("memory_backed", "1"), ("badblocks", "+2048-2559"), ("power", "1"),
    ):  # fmt: skip
        (folder / name).write_text(value)
    yield Path("/dev") / folder.name
    (folder / "power").write_text("0")
    folder.rmdir()


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A control group whose processes have 160 MiB together."""
    root = Path("/sys/fs/cgroup")
    is_ours = not (root / "cgroup.controllers").exists()
    if is_ours:
        subprocess.run(["mount", "-t", "cgroup2", "cgroup2", str(root)], check=True)
    (root / "cgroup.subtree_control").write_text("+memory")
    group = root / "small"
    group.mkdir()
    (group / "memory.max").write_text(str(160 * MIB))
    yield group
    wait_until(lambda: (group / "cgroup.procs").read_text() == "", "its processes end")
    group.rmdir()
    if is_ours:
        subprocess.run(["umount", str(root)], check=True)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for 2 MiB."""
    folder = tmp_path / "full"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("direct", ["on", "off"])
def test_bad_sectors_of_the_host_are_bad_sectors_of_the_guest(
    ready: Boot, bad_disk: Path, direct: str
) -> None:
    guest = ready(
        "-drive", f"id=d,file={bad_disk},direct={direct}", "-device", "virtio-blk-device,drive=d"
    )
    good = "dd if=/dev/urandom of=/dev/vda bs=64k count=16 oflag=direct conv=fsync 2>/dev/null"
    bad = "dd if=/dev/urandom of=/dev/vda bs=64k count=1 seek=17 oflag=direct conv=fsync 2>&1"
    assert "I/O error" in guest.command(
        "dd if=/dev/vda of=/dev/null bs=64k skip=17 count=1 iflag=direct 2>&1 || true"
    )
    for _ in range(2):
        guest.command(good)
        assert "I/O error" in guest.command(f"{bad} || true")
    # The neighbours are as they were written.
    ours = hashlib.md5(first_mib(bad_disk))
    theirs = guest.command("dd if=/dev/vda bs=64k count=16 iflag=direct 2>/dev/null | md5sum")
    assert theirs.split()[0] == ours.hexdigest()
    guest.type("poweroff -f\n")
    assert guest.wait() == 0


def first_mib(path: Path) -> bytes:
    with path.open("rb") as disk:
        return disk.read(MIB)


def test_a_full_host_disk_fails_the_writes_that_found_no_room(ready: Boot, full_disk: Path) -> None:
    image = full_disk / "image"
    image.touch()
    os.truncate(image, 8 * MIB)
    guest = ready("-drive", f"id=d,file={image},direct=off", "-device", "virtio-blk-device,drive=d")
    text = guest.command("dd if=/dev/urandom of=/dev/vda bs=64k count=64 oflag=direct 2>&1 || true")
    assert "I/O error" in text or "No space" in text
    # What was accepted is there, and the disk goes on working once there is room.
    digest = guest.command("dd if=/dev/vda bs=64k count=16 iflag=direct 2>/dev/null | md5sum")
    assert digest.split()[0] == hashlib.md5(image.read_bytes()[:MIB]).hexdigest()
    subprocess.run(["mount", "-o", "remount,size=16m", str(full_disk)], check=True)
    guest.command("dd if=/dev/urandom of=/dev/vda bs=64k count=64 oflag=direct conv=fsync")
    guest.type("poweroff -f\n")
    assert guest.wait() == 0


def test_an_image_cut_short_while_in_use_fails_only_beyond_its_end(
    ready: Boot, tmp_path: Path
) -> None:
    image = tmp_path / "image"
    image.write_bytes(os.urandom(4 * MIB))
    guest = ready("-drive", f"id=d,file={image}", "-device", "virtio-blk-device,drive=d")
    os.truncate(image, 2 * MIB)
    assert "I/O error" in guest.command(
        "dd if=/dev/vda of=/dev/null bs=64k skip=40 count=1 iflag=direct 2>&1 || true"
    )
    digest = guest.command("dd if=/dev/vda bs=1M count=2 iflag=direct 2>/dev/null | md5sum")
    assert digest.split()[0] == hashlib.md5(image.read_bytes()).hexdigest()


def test_a_machine_that_its_group_has_no_memory_for_leaves_nothing(
    ready: Boot, small_group: Path, tmp_path: Path
) -> None:
    qmp, pidfile = tmp_path / "qmp", tmp_path / "pid"
    guest = ready("-m", "512M", "-qmp", f"unix:{qmp},server,nowait", "-pidfile", str(pidfile))
    assert qmp.exists() and pidfile.exists()
    pid = guest.process.pid
    broker = Path(f"/proc/{pid}/task/{pid}/children").read_text().strip()
    for process in (str(pid), broker):
        (small_group / "cgroup.procs").write_text(process)
    guest.type("dd if=/dev/zero of=/tmp/fill bs=1M count=350\n")
    assert guest.wait() == -signal.SIGKILL
    assert "oom_kill 0" not in (small_group / "memory.events").read_text()
    wait_until(lambda: not qmp.exists() and not pidfile.exists(), "the broker clears away")


def test_every_flushed_record_survives_sudden_deaths(boot: Boot, tmp_path: Path) -> None:
    image = tmp_path / "records"
    image.write_bytes(bytes(4 * MIB))
    for attempt in range(3):
        guest = boot("-drive", f"id=d,file={image}", "-device", "virtio-blk-device,drive=d")
        guest.expect("guest: ready in the initramfs")
        guest.expect("# ")
        # Each record is a sector that names itself; it is printed once it is flushed.
        guest.type(
            f"n=0; while true; do printf 'record {attempt} %08d.' $n | dd of=/dev/vda bs=512 "
            "seek=$n conv=sync,fsync,notrunc 2>/dev/null && echo flush''ed $n; n=$((n+1)); done\n"
        )
        guest.expect("flushed 20\r")
        time.sleep(0.1 * attempt)
        guest.process.send_signal(signal.SIGKILL)
        guest.wait()
        flushed = guest.console.rpartition(b"flushed ")[2].split(b"\r")[0]
        content = image.read_bytes()
        for record in range(int(flushed)):
            wanted = b"record %d %08d." % (attempt, record)
            assert content[512 * record :].startswith(wanted), (record, flushed)


def reads_of(guest: MachineProcess, seconds: float) -> float:
    """How many reads a second the machine does in the host."""
    path = Path(f"/proc/{guest.process.pid}/io")

    def count() -> int:
        return int(path.read_text().split("syscr:")[1].split()[0])

    before, started = count(), time.monotonic()
    time.sleep(seconds)
    return (count() - before) / (time.monotonic() - started)


def test_the_data_path_does_not_need_the_gil(
    boot: Boot, files: type[GuestFiles], tools: type[Tools], tmp_path: Path
) -> None:
    image = Path("/dev/shm/gil-disk")
    image.write_bytes(os.urandom(MIB) * 64)
    guest = MachineProcess(
        "-m", "tests.guest.gil_burner", "-machine", "microvm", "-kernel", files.kernel,
        "-initrd", files.initramfs, "-append", APPEND, "-serial", "stdio",
        "-drive", f"id=d,file={image},direct=off", "-device", "virtio-blk-device,drive=d",
        *tools.options, program=sys.executable,
    )  # fmt: skip
    with guest:
        guest.expect("guest: ready in the initramfs")
        guest.expect("# ")
        tools.mount(guest)
        guest.type(
            "chroot /tools fio --name=b --filename=/dev/vda --direct=1 --ioengine=libaio --thread "
            "--bs=4k --rw=randread --iodepth=32 --time_based --runtime=120 --minimal >/dev/null &\n"
        )
        while reads_of(guest, 1.0) < 200:
            continue
        # The burner needs a CPU, whatever it holds; its twin beside it needs one just so.
        machine = guest.process.pid
        twin = int(Path(f"/proc/{machine}/task/{machine}/children").read_text())
        ratios = []
        for _ in range(ROUNDS):
            reads = {}
            for burner in (twin, machine):
                os.kill(burner, signal.SIGUSR1)
                time.sleep(0.2)
                reads[burner] = reads_of(guest, 1.6)
                time.sleep(0.4)
            assert reads[twin], f"the guest stands still beside its twin; {guest.look()}"
            ratios.append(reads[machine] / reads[twin])
        print(f"IOPS under a burnt GIL, to those beside a twin process: {sorted(ratios)}")
        assert sorted(ratios)[ROUNDS // 2] > 0.8
    image.unlink()
