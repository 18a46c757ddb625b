"""``make bench-snapshot``, in the lab: a guest started from a snapshot, beside QEMU's -incoming.

The same guest is saved by both while it writes a word to its console fifty times a second.  The
time from exec to the clone's first output is taken in alternating rounds; printed are medians
and the ratio ours/QEMU.  Then memory: the proportional set size of ten clones of one template
beside ten cold boots.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.machine_process import PATIENCE, MachineProcess, QmpClient
from tests.programs import STRATOVIRT

from stratovirt_lab import images
from stratovirt_lab.architectures import of_this_host

ROUNDS = 9
CLONES = 10
TARGET = 0.5
USED_MIB = 100
QEMU = "qemu-system-x86_64"
APPEND = f"console={of_this_host().console} quiet panic=1"
TICKING = "while true; do echo tick; usleep 20000; done"
LOST_AFTER_S = 30.0
"""A clone that has said nothing by then is lost; the emulated CPUs lose one now and then."""


def ours(folder: Path) -> list[str]:
    """Our command line."""
    return [
        STRATOVIRT, "-machine", "microvm", "-m", "512M", "-smp", "1", "-serial", "stdio",
        "-qmp", f"unix:{folder}/ours.qmp,server,nowait",
        "-drive", f"id=disk,file={folder}/ours.img,direct=off",
        "-device", "virtio-blk-device,drive=disk",
        "-kernel", str(images.guest_kernel()), "-initrd", str(images.guest_initramfs()),
        "-append", APPEND,
    ]  # fmt: skip


def peer(folder: Path) -> list[str]:
    """QEMU's, with the same devices."""
    return [
        QEMU, "-M", "microvm,accel=kvm,x-option-roms=off,pit=off,pic=off,rtc=off",
        "-global", "virtio-mmio.force-legacy=false", "-cpu", "host", "-m", "512M", "-smp", "1",
        "-no-user-config", "-nodefaults", "-nographic", "-no-reboot", "-serial", "stdio",
        "-qmp", f"unix:{folder}/peer.qmp,server,nowait",
        "-blockdev", f"driver=file,node-name=disk,filename={folder}/peer.img,locking=off",
        "-device", "virtio-blk-device,drive=disk",
        "-kernel", str(images.guest_kernel()), "-initrd", str(images.guest_initramfs()),
        "-append", APPEND,
    ]  # fmt: skip


def launch(command: list[str]) -> MachineProcess:
    """A process whose console is ours."""
    return MachineProcess(*command[1:], program=command[0])


def end(machine: MachineProcess) -> None:
    """Kill it."""
    machine.__exit__(None, None, None)


def boot(command: list[str]) -> MachineProcess:
    """A guest at its shell."""
    for _ in range(5):
        guest = launch(command)
        try:
            guest.expect("guest: ready in the initramfs", 3 * PATIENCE)
            guest.expect("# ")
            return guest
        except AssertionError:
            end(guest)
    raise SystemExit(f"bench: {command[0]} does not boot its guest")


def save(command: list[str], qmp: Path, uri: str, *, paused: bool) -> None:
    """Boot a guest, have it work, save it as `uri`."""
    guest = boot(command)
    guest.command(f"dd if=/dev/urandom of=/used bs=1M count={USED_MIB} 2>/dev/null")
    guest.type(f"{TICKING}\n")
    guest.expect("tick")
    with QmpClient(qmp) as client:
        if paused:
            client.cmd("stop")
        client.cmd("migrate", uri=uri)
        deadline = time.monotonic() + 3 * PATIENCE
        while (status := client.cmd("query-migrate")["status"]) != "completed":
            if status == "failed" or time.monotonic() > deadline:
                raise SystemExit(f"bench: {command[0]} does not save its guest: {status}")
            time.sleep(0.1)
    end(guest)


def first_output_s(command: list[str]) -> float:
    """Seconds from exec to the first word of the clone."""
    for _ in range(5):
        started = time.monotonic()
        clone = launch(command)
        try:
            clone.expect("tick", LOST_AFTER_S)
            return time.monotonic() - started
        except AssertionError:
            print("a clone was lost and is started anew", file=sys.stderr)
        finally:
            end(clone)
    raise SystemExit(f"bench: {command[0]} does not restore its guest")


def pss_mib(machines: list[MachineProcess]) -> float:
    """Proportional set sizes, summed: what is shared counts once."""
    total = 0
    for machine in machines:
        text = Path(f"/proc/{machine.process.pid}/smaps_rollup").read_text()
        total += int(next(line for line in text.splitlines() if line.startswith("Pss:")).split()[1])
    return total / 1024


@contextlib.contextmanager
def several(commands: list[list[str]], *, cold: bool) -> Iterator[list[MachineProcess]]:
    """That many machines at a time, each at work."""
    running: list[MachineProcess] = []
    try:
        for command in commands:
            machine = boot(command) if cold else launch(command)
            running.append(machine)
            if cold:
                machine.command(f"dd if=/dev/urandom of=/used bs=1M count={USED_MIB} 2>/dev/null")
                machine.type(f"{TICKING}\n")
            machine.expect("tick")
            # At rest, or each would make the next one slower.
            machine.process.send_signal(signal.SIGSTOP)
        yield running
    finally:
        for machine in running:
            end(machine)


def numbered(folder: Path, number: int) -> list[str]:
    """Our command line with a socket and a disk of its own."""
    own = folder / str(number)
    own.mkdir()
    (own / "ours.img").write_bytes(bytes(1 << 20))
    return ours(own)


def main() -> int:
    """Measure and print."""
    if "STRATOVIRT_IN_LAB" not in os.environ:
        print("bench: runs in the lab; use make bench-snapshot", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name in ("ours.img", "peer.img"):
            (folder / name).write_bytes(bytes(1 << 20))
        print(f"saving a guest of 512 MiB with {USED_MIB} MiB in use", file=sys.stderr)
        save(ours(folder), folder / "ours.qmp", f"file:{folder}/template", paused=True)
        save(peer(folder), folder / "peer.qmp", f"exec:cat >{folder}/peer.state", paused=False)
        commands = {
            "ours": [*ours(folder), "-incoming", f"file:{folder}/template"],
            "qemu": [*peer(folder), "-incoming", f"exec:cat {folder}/peer.state"],
        }
        for command in commands.values():
            print("$ " + shlex.join(command))
        times: dict[str, list[float]] = {name: [] for name in commands}
        for number in range(ROUNDS):
            print(f"round {number + 1}/{ROUNDS}", file=sys.stderr)
            for name, command in commands.items():
                times[name].append(first_output_s(command))
        medians = {name: statistics.median(values) for name, values in times.items()}
        ratio = medians["ours"] / medians["qemu"]
        print(f"exec to first output of the clone, median of {ROUNDS}, ms:")
        print(f"  ours {medians['ours'] * 1000:.0f}  qemu {medians['qemu'] * 1000:.0f}")
        print(f"  ratio {ratio:.2f} (target: at most {TARGET})", flush=True)
        incoming = ["-incoming", f"file:{folder}/template"]
        clones = [[*numbered(folder, number), *incoming] for number in range(CLONES)]
        with several(clones, cold=False) as machines:
            warm = pss_mib(machines)
        shutil.rmtree(folder / "template")
        boots = [numbered(folder, CLONES + number) for number in range(CLONES)]
        with several(boots, cold=True) as machines:
            cold = pss_mib(machines)
        print(f"PSS of {CLONES} machines, MiB: clones {warm:.0f}, cold boots {cold:.0f}")
        print(f"  ratio {warm / cold:.2f}")
    return 0 if ratio <= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
