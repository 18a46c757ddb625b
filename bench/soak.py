"""A soak: machines booted, loaded, changed, saved, restored and killed in random order.

    python -m bench.soak [MINUTES [SEED]]        (in the lab; `make soak`)

One machine lives through all of it; others come and go.  At the end: every record that a guest was
told is flushed is on its disk, and the long-lived machine's memory and descriptors, as well as the
host's processes and open files, are what they were at the beginning.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.machine_process import MachineProcess, QmpClient

from stratovirt_lab import images
from stratovirt_lab.architectures import of_this_host

MIB = 1 << 20
APPEND = f"console={of_this_host().console} quiet panic=1"
RECORDS = 16 * MIB // 512
RSS_ROOM = 1.05
"""How much the long-lived machine's own memory may differ at the end: the C library's heaps
settle.  Guest memory is not counted."""


class Disk:
    """An image of sectors that name themselves, and how many the guest said are flushed."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        path.write_bytes(b"")
        os.truncate(path, RECORDS * 512)
        self.flushed = 0

    def write_command(self, count: int) -> str:
        """Shell code that writes the next records and flushes each."""
        first, last = self.flushed, self.flushed + count - 1
        return (
            f"for n in $(seq {first} {last}); do printf '{self.name} %08d.' $n | "
            "dd of=/dev/vda bs=512 seek=$n conv=sync,fsync,notrunc 2>/dev/null && "
            "echo flush''ed $n; done"
        )

    def heard(self, console: bytes) -> None:
        """The guest has said what is flushed."""
        for line in console.split(b"\r\n"):
            words = line.split()
            if len(words) == 2 and words[0] == b"flushed":
                self.flushed = max(self.flushed, int(words[1]) + 1)

    def check(self) -> None:
        """Every flushed record is there."""
        with self.path.open("rb") as image:
            for number in range(self.flushed):
                record = image.read(512)
                wanted = f"{self.name} {number:08}.".encode()
                assert record.startswith(wanted), f"{self.name}: record {number} is {record[:24]!r}"


class Machine:
    """A guest with one disk, its monitor, and room for one more disk."""

    def __init__(self, folder: Path, name: str, board: str, disk: Disk, *more: str) -> None:
        self.board, self.disk, self.path = board, disk, folder / f"{name}.qmp"
        drive = ("-drive", f"id=d,file={disk.path},direct=off")
        bus = {
            "microvm": ("-device", "virtio-blk-device,drive=d"),
            "q35": (
                "-device", "virtio-blk-pci,drive=d,bus=pcie.0,addr=0x2",
                "-device", "pcie-root-port,port=0x1,addr=0x3,bus=pcie.0,id=port",
            ),
        }[board]  # fmt: skip
        self.process = MachineProcess(
            "-machine", board, "-m", "256M", "-kernel", str(images.guest_kernel()),
            "-initrd", str(images.guest_initramfs()), "-append", APPEND, "-serial", "stdio",
            "-qmp", f"unix:{self.path},server,nowait", *drive, *bus, *more,
        )  # fmt: skip

    def await_shell(self) -> None:
        """Until the guest has booted."""
        self.process.expect("guest: ready in the initramfs")
        self.process.expect("# ")

    def end(self) -> None:
        """Kill it, and take in what its console still had."""
        self.process.process.send_signal(signal.SIGKILL)
        self.process.process.wait()
        self.process.__exit__(None, None, None)
        self.disk.heard(self.process.console)

    def own_bytes(self) -> int:
        """Resident memory that is not the guest's: all but the largest mappings."""
        total = 0
        for block in (
            Path(f"/proc/{self.process.process.pid}/smaps").read_text().split("VmFlags")[:-1]
        ):
            fields = dict(
                line.split(":", 1) for line in block.splitlines() if ":" in line and "kB" in line
            )
            if int(fields["Size"].split()[0]) < 128 << 10:
                total += int(fields["Rss"].split()[0]) << 10
        return total

    def descriptors(self) -> int:
        """Open descriptors of the process."""
        return len(os.listdir(f"/proc/{self.process.process.pid}/fd"))


class Soak:
    """The actions, each a step of a round."""

    def __init__(self, folder: Path, chooser: random.Random) -> None:
        self.folder, self.chooser = folder, chooser
        self.done: Counter[str] = Counter()
        self.elder_disk = Disk(folder / "elder.img", "elder")
        self.spare = folder / "spare.img"
        self.spare.write_bytes(bytes(4 * MIB))
        self.template = folder / "template"
        self.elder = self.boot_elder()

    def boot_elder(self) -> Machine:
        """The machine that lives on."""
        elder = Machine(self.folder, "elder", "microvm", self.elder_disk)
        elder.await_shell()
        return elder

    def write(self) -> None:
        """The long-lived guest writes and flushes."""
        before = self.elder_disk.flushed
        out = self.elder.process.command(self.elder_disk.write_command(20))
        self.elder_disk.heard(out.replace("\n", "\r\n").encode())
        assert self.elder_disk.flushed == before + 20, out

    def hotplug(self) -> None:
        """A disk comes, is read and goes."""
        with QmpClient(self.elder.path) as client:
            node = {
                "node-name": "s",
                "file": {"filename": str(self.spare)},
                "cache": {"direct": False},
            }
            client.cmd("blockdev-add", **node)
            client.cmd("device_add", driver="virtio-blk-mmio", id="s", drive="s", addr="0x0")
            self.elder.process.command("dd if=/dev/vdb of=/dev/null bs=64k 2>/dev/null")
            client.cmd("device_del", id="s")
            client.cmd("blockdev-del", **{"node-name": "s"})

    def snapshot(self) -> None:
        """The long-lived machine is saved and goes on."""
        with QmpClient(self.elder.path) as client:
            client.cmd("stop")
            client.cmd("migrate", uri=f"file:{self.template}")
            while (info := client.cmd("query-migrate"))["status"] == "active":
                time.sleep(0.1)
            assert info["status"] == "completed", info
            client.cmd("cont")

    def restore(self) -> None:
        """A clone starts from the last snapshot, writes, and is killed."""
        if not self.template.exists():
            self.snapshot()
        disk = Disk(self.folder / "clone.img", "clone")
        clone = Machine(
            self.folder, "clone", "microvm", disk, "-incoming", f"file:{self.template}"
        )  # fmt: skip
        self.load_and_kill(clone, disk, is_booted=True)

    def boot(self) -> None:
        """A machine of either board boots, is loaded, and is killed."""
        board = self.chooser.choice(("microvm", "q35"))
        disk = Disk(self.folder / "young.img", "young")
        self.load_and_kill(Machine(self.folder, "young", board, disk), disk, is_booted=False)

    def load_and_kill(self, machine: Machine, disk: Disk, *, is_booted: bool) -> None:
        """Kill it somewhere in the middle of its writes, and look at its disk."""
        try:
            if is_booted:
                machine.process.type("\n")
                machine.process.expect("# ")
            else:
                machine.await_shell()
            machine.process.type(disk.write_command(500) + "\n")
            machine.process.expect(f"flushed {self.chooser.randrange(5, 40)}\r")
            time.sleep(self.chooser.random() / 5)
        finally:
            machine.end()
        disk.check()

    def round(self) -> None:
        """One action, chosen by chance."""
        actions = [self.write, self.write, self.hotplug, self.hotplug, self.snapshot, self.restore,
                   self.boot]  # fmt: skip
        action = self.chooser.choice(actions)
        action()
        self.done[action.__name__] += 1


def host_facts() -> tuple[int, int]:
    """Processes, and open files of the whole host."""
    # The kernel's own have no command line.
    processes = sum(bool(path.read_bytes()) for path in Path("/proc").glob("[0-9]*/cmdline"))
    return processes, int(Path("/proc/sys/fs/file-nr").read_text().split()[0])


def main() -> None:
    """Run it and print what came of it."""
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 30
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 32)
    print(f"soak: {minutes:g} minutes, seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        soak = Soak(Path(name), random.Random(seed))
        for action in (soak.write, soak.hotplug, soak.snapshot, soak.restore, soak.boot):
            action()
        start = (soak.elder.own_bytes(), soak.elder.descriptors(), *host_facts())
        deadline, shown = time.monotonic() + 60 * minutes, 0.0
        while time.monotonic() < deadline:
            soak.round()
            if time.monotonic() - shown > 60:
                shown = time.monotonic()
                left = (deadline - shown) / 60
                print(
                    f"soak: {left:4.0f} min left; {dict(soak.done)}; own memory "
                    f"{soak.elder.own_bytes() >> 10} KiB, {soak.elder.descriptors()} descriptors",
                    flush=True,
                )
        end = (soak.elder.own_bytes(), soak.elder.descriptors(), *host_facts())
        soak.elder.end()
        soak.elder_disk.check()
    print(f"soak: {sum(soak.done.values())} actions, {dict(soak.done)}")
    print(f"soak: records flushed and found by the long-lived machine: {soak.elder_disk.flushed}")
    for what, before, after in zip(
        ("own memory, bytes", "descriptors", "host processes", "host open files"),
        start, end, strict=True,
    ):  # fmt: skip
        print(f"soak: {what}: {before} before, {after} after")
    assert end[1] == start[1], "descriptors leak"
    assert end[0] <= start[0] * RSS_ROOM, "memory leaks"
    assert end[2] <= start[2], "processes are left behind"


if __name__ == "__main__":
    subprocess.run(["sync"], check=True)
    main()
