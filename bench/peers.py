"""``make bench-peers``: cold starts beside QEMU, StratoVirt, Firecracker and Cloud Hypervisor.

From exec to the guest's first byte on the serial port, alternating, medians; with it the CPU time
of the VMM's processes until then, and their memory and system calls.  The guest is some bytes of
machine code in an ELF file with a PVH note, and in a bzImage.  Peers are found in the folder PEERS,
or in PATH; those that are not there are named.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.programs import STRATOVIRT

from bench.peer_kernels import bzimage, pvh_elf

ROUNDS = 30
RETRIES = 5
"""Starts that may fail: a peer that reads its standard input sometimes ends at once."""
PATIENCE_S = 10.0
RAM_MIB = 256
DIST = Path(__file__).parents[1] / "dist/stratovirt"
FIGURES = ("wall ms", "CPU ms", "private dirty KiB", "PSS KiB")


class Side:
    """One program with its arguments; `binary` counts for the size of what is installed."""

    def __init__(self, name: str, binary: str | None, *words: str) -> None:
        self.name, self.binary, self.words = name, binary, words
        self.starts: list[dict[str, float]] = []
        self.calls = 0

    def median(self, figure: str) -> float:
        """The median of a figure over all starts."""
        return statistics.median(start[figure] for start in self.starts)


def find(name: str) -> str | None:
    """A peer's path: in the folder PEERS, else in PATH."""
    folder = os.environ.get("PEERS")
    inside = Path(folder, name) if folder else None
    return str(inside) if inside is not None and inside.exists() else shutil.which(name)


def sides(folder: Path) -> list[Side]:
    """All programs with their command lines; the kernels are written to `folder`."""
    elf, bz, initrd = folder / "kernel.elf", folder / "kernel.bz", folder / "initrd"
    elf.write_bytes(pvh_elf())
    bz.write_bytes(bzimage())
    initrd.write_bytes(bytes(512))
    settings = folder / "firecracker.json"
    settings.write_text(json.dumps({
        "boot-source": {"kernel_image_path": str(elf), "boot_args": "console=ttyS0"},
        "drives": [], "machine-config": {"vcpu_count": 1, "mem_size_mib": RAM_MIB},
    }))  # fmt: skip
    ours = ("-machine", "microvm", "-m", str(RAM_MIB), "-kernel", str(elf), "-serial", "stdio")
    qmp = ("-qmp", f"unix:{folder}/qmp,server,nowait")
    dist = str(DIST) if DIST.exists() else None
    return [
        Side("dist/stratovirt", dist, *ours),
        Side("dist/stratovirt -qmp", dist, *ours, *qmp),
        Side("stratovirt (Python)", STRATOVIRT, *ours),
        Side("stratovirt (Python) -qmp", STRATOVIRT, *ours, *qmp),
        Side(
            "StratoVirt -qmp", find("stratovirt") if "PEERS" in os.environ else None,
            "-machine", "microvm", "-m", str(RAM_MIB), "-kernel", str(bz), "-initrd", str(initrd),
            "-serial", "file,path=/proc/self/fd/1", "-qmp", f"unix:{folder}/peer,server,nowait",
        ),
        Side("Firecracker", find("firecracker"), "--no-api", "--no-seccomp", "--config-file",
             str(settings)),
        Side("Cloud Hypervisor", find("cloud-hypervisor"), "--kernel", str(elf), "--memory",
             f"size={RAM_MIB}M", "--cpus", "boot=1", "--serial", "tty", "--console", "off"),
        Side("QEMU microvm", find("qemu-system-x86_64"), "-M", "microvm", "-accel", "kvm", "-m",
             str(RAM_MIB), "-kernel", str(elf), "-nodefaults", "-display", "none", "-serial",
             "stdio"),
    ]  # fmt: skip


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            found += tree(int(child))
    return found


def cpu_ms(pids: list[int]) -> float:
    """The CPU time of all threads, of the user and the system."""
    threads = [path for pid in pids for path in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    return sum(int(path.read_text().split()[0]) for path in threads) / 1e6


def memory_kib(pids: list[int], field: str) -> float:
    """A sum of /proc/PID/smaps_rollup over the processes."""
    texts = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]
    return sum(float(n) for text in texts for n in re.findall(rf"^{field}: +(\d+)", text, re.M))


def start(command: list[str], folder: Path) -> dict[str, float] | None:
    """Start until the guest's byte, look at the processes, end them; None if it does not come."""
    for name in ("qmp", "peer"):
        (folder / name).unlink(missing_ok=True)
    read_end, write_end = os.pipe()
    null = os.open(os.devnull, os.O_RDWR)
    actions = [
        (os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, write_end, 1),
        (os.POSIX_SPAWN_DUP2, null, 2),
    ]  # fmt: skip
    began = time.monotonic()
    pid = os.posix_spawn(command[0], command, os.environ, file_actions=actions, setsid=True)
    os.close(write_end)
    os.close(null)
    try:
        byte = read_in_time(read_end)
        wall = (time.monotonic() - began) * 1000
        if byte == b"":
            return None
        # Threads that were in the middle of something come to rest.
        time.sleep(0.05)
        pids = tree(pid)
        return {
            "wall ms": wall, "CPU ms": cpu_ms(pids),
            "private dirty KiB": memory_kib(pids, "Private_Dirty"),
            "PSS KiB": memory_kib(pids, "Pss"),
        }  # fmt: skip
    finally:
        os.close(read_end)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def read_in_time(fd: int) -> bytes:
    """The first byte, or none when the program ends or is silent."""
    return os.read(fd, 1) if select.select([fd], [], [], PATIENCE_S)[0] else b""


def started(side: Side, folder: Path) -> dict[str, float]:
    """The figures of one start; a program that never starts ends the benchmark."""
    assert side.binary is not None
    for _ in range(RETRIES):
        figures = start([side.binary, *side.words], folder)
        if figures is not None:
            return figures
    raise SystemExit(f"bench: {side.name} does not start: {side.binary} {' '.join(side.words)}")


def count_calls(side: Side, folder: Path) -> int:
    """System calls until the guest's byte, roughly: the program is ended when it has come."""
    assert side.binary is not None
    trace = folder / "trace"
    start(["/usr/bin/strace", "-f", "-qq", "-o", str(trace), side.binary, *side.words], folder)
    return trace.read_bytes().count(b"\n")


def show(rows: list[Side], base: Side) -> None:
    """Print the table, with ratios to `base`."""
    print(f"{'':26}" + "".join(f"{name:>20}" for name in (*FIGURES, "calls", "size MB")))
    for side in rows:
        assert side.binary is not None
        cells = [f"{side.median(name):9.1f} ({side.median(name) / base.median(name):5.2f})"
                 for name in FIGURES]  # fmt: skip
        cells += [str(side.calls), f"{os.path.getsize(side.binary) / 1e6:.1f}"]
        print(f"{side.name:26}" + "".join(f"{cell:>20}" for cell in cells))
    print(f"medians of {ROUNDS}, in parentheses as a ratio to {base.name}")


def main() -> int:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        everyone = sides(folder)
        rows = [side for side in everyone if side.binary is not None]
        for side in everyone:
            if side.binary is None:
                print(f"{side.name}: not there")
        for number in range(ROUNDS):
            print(f"\rround {number + 1}/{ROUNDS}", end="", file=sys.stderr, flush=True)
            for side in rows:
                side.starts.append(started(side, folder))
        print(file=sys.stderr)
        for side in rows:
            side.calls = count_calls(side, folder)
    base = next((side for side in rows if side.name.startswith("StratoVirt")), rows[0])
    show(rows, base)
    return 0


if __name__ == "__main__":
    sys.exit(main())
