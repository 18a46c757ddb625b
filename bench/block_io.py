"""``make bench-io``, first part: the block engine at full speed beside QEMU's.

No vCPU: a load generator plays the driver in shared memory and rings eventfds.  Ours is the
virtio-blk device in a process of its own; the peer is qemu-storage-daemon's vhost-user-blk export
with io_uring, in an iothread, with QEMU's polling and without, whichever is faster.
"""

from __future__ import annotations

import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from bench.ring_load import RingLoad, compile_driver
from bench.vhost_user import VhostUser

ROUNDS = 5
SECONDS = 1.0
IMAGE_MIB = 512
TARGET = 1.0
CASES: dict[str, dict[str, int | bool]] = {
    "4 KiB random reads, depth 1": {"depth": 1, "size": 4096},
    "4 KiB random reads, depth 32": {"depth": 32, "size": 4096},
    "128 KiB sequential, depth 8": {"depth": 8, "size": 131072, "sequential": True},
}
Start = Callable[[RingLoad], subprocess.Popen[bytes]]


@contextmanager
def ours(load: RingLoad, image: Path) -> Iterator[int]:
    """Our device; the process id."""
    fds = (load.ram_fd, load.kick_fd, load.call_fd)
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.block_server", str(image), "off",
         *map(str, fds), *map(str, (load.desc, load.avail, load.used))],
        pass_fds=fds, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    if process.stdout.readline() != b"ready\n":
        raise RuntimeError("our block server did not start")
    try:
        yield process.pid
    finally:
        process.communicate(b"", timeout=10)


def storage_daemon(image: Path, path: Path, poll_ns: int) -> list[str]:
    """The peer's command line."""
    return [
        "qemu-storage-daemon", "--object", f"iothread,id=io,poll-max-ns={poll_ns}",
        "--blockdev", f"driver=file,node-name=disk,filename={image},aio=io_uring,cache.direct=off",
        "--export", f"type=vhost-user-blk,id=export,node-name=disk,writable=on,iothread=io,"
        f"addr.type=unix,addr.path={path}",
    ]  # fmt: skip


@contextmanager
def peer(load: RingLoad, image: Path, poll_ns: int) -> Iterator[int]:
    """QEMU's export; the process id."""
    path = image.with_name("export.sock")
    path.unlink(missing_ok=True)
    process = subprocess.Popen(storage_daemon(image, path, poll_ns))
    while not path.exists():
        if process.poll() is not None:
            raise RuntimeError("qemu-storage-daemon did not start")
        time.sleep(0.01)
    try:
        client = VhostUser(str(path))
        client.set_up(load)
        yield process.pid
        client.close()
    finally:
        # Asked politely it sometimes never ends.
        process.kill()
        process.wait()


def cpu_seconds(pid: int) -> float:
    """What the process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    """Measure, print, and say whether the target is met at each."""
    missed = False
    with tempfile.TemporaryDirectory(dir="/dev/shm") as scratch:
        folder = Path(scratch)
        driver = compile_driver(folder)
        image = folder / "image"
        image.write_bytes(os.urandom(1 << 20) * IMAGE_MIB)
        sides: dict[str, Callable[[RingLoad], AbstractContextManager[int]]] = {
            "stratovirt": lambda load: ours(load, image),
            "qemu": lambda load: peer(load, image, 0),
            "qemu, polling": lambda load: peer(load, image, 32768),
        }
        peers = [shlex.join(storage_daemon(image, folder / "export.sock", ns)) for ns in (0, 32768)]
        print("peer: " + "\npeer, polling: ".join(peers))
        print(
            f"{IMAGE_MIB} MiB on tmpfs, page cache, {ROUNDS} alternating rounds of {SECONDS} s, "
            "medians; CPU seconds of the device's process per million requests"
        )
        print(
            f"{'':<30}{'stratovirt':>11}{'CPU s':>7}{'qemu':>10}{'CPU s':>7}"
            f"{'polling':>10}{'CPU s':>7}{'ratio':>7}"
        )
        for name, case in CASES.items():
            rates: dict[str, list[float]] = {side: [] for side in sides}
            costs: dict[str, list[float]] = {side: [] for side in sides}
            for _ in range(ROUNDS):
                for side, start in sides.items():
                    load = RingLoad(driver)
                    with start(load) as pid:
                        sectors = image.stat().st_size // 512
                        load.run(**case, sectors=sectors, seconds=0.1)  # type: ignore[arg-type]
                        before = cpu_seconds(pid)
                        done = load.run(**case, sectors=sectors, seconds=SECONDS)  # type: ignore[arg-type]
                        cost = cpu_seconds(pid) - before
                    rates[side].append(done.requests / done.seconds)
                    costs[side].append(cost / done.requests * 1e6)
                    load.close()
            rate = {side: statistics.median(found) for side, found in rates.items()}
            cost_of = {side: statistics.median(found) for side, found in costs.items()}
            ratio = rate["stratovirt"] / max(rate["qemu"], rate["qemu, polling"])
            missed |= ratio < TARGET
            columns = "".join(
                f"{rate[side]:>{11 if side == 'stratovirt' else 10}.0f}{cost_of[side]:>7.2f}"
                for side in sides
            )
            print(f"{name:<30}{columns}{ratio:>7.2f}")
    print(f"ratio: IOPS, ours to QEMU's better one; target at least {TARGET}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
