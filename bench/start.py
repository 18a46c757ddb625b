"""``make bench-start``: from exec to the first KVM_RUN, ours beside QEMU's microvm.

strace stamps both moments; a seccomp filter lets it stop only at execve and ioctl, so tracing
costs either side little.  Same RAM size, alternating rounds, medians.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROUNDS = 20
RAM_MIB = 256
QEMU = "qemu-system-x86_64"
EXECVE = re.compile(r"(\d+\.\d+) execve\(.* = 0")
KVM_RUN = re.compile(r"(\d+\.\d+) ioctl\(\d+, KVM_RUN")


def start_ms(command: list[str]) -> float:
    """Milliseconds from exec to the first KVM_RUN of `command`, which is killed then."""
    read_end, write_end = os.pipe()
    process = subprocess.Popen(
        ["strace", "-f", "--seccomp-bpf", "-ttt", "-e", "trace=execve,ioctl",
         "-o", f"/proc/self/fd/{write_end}", *command],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        pass_fds=[write_end], start_new_session=True,
    )  # fmt: skip
    os.close(write_end)
    executed = None
    try:
        with os.fdopen(read_end) as trace:
            for line in trace:
                found = EXECVE.search(line)
                if found is not None and executed is None:
                    executed = float(found[1])
                found = KVM_RUN.search(line)
                if found is not None and executed is not None:
                    return (float(found[1]) - executed) * 1000
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    raise SystemExit(f"bench: {command[0]} never reached KVM_RUN; is /dev/kvm usable?")


def main() -> int:
    """Measure and print."""
    from tests.payload import BUSY, POWER_OFF, write_kernel
    from tests.programs import STRATOVIRT

    for tool in ("strace", QEMU):
        if shutil.which(tool) is None:
            print(f"bench: {tool} is not installed", file=sys.stderr)
            return 1
    with tempfile.TemporaryDirectory() as scratch:
        # The payload exits at once: strace shows a call when it returns.
        kernel = write_kernel(Path(scratch), POWER_OFF + BUSY)
        commands = {
            "stratovirt": [STRATOVIRT, "-machine", "microvm", "-m", str(RAM_MIB),
                           "-kernel", str(kernel)],
            "qemu microvm": [QEMU, "-M", "microvm", "-accel", "kvm", "-m", str(RAM_MIB),
                             "-nodefaults", "-display", "none"],
        }  # fmt: skip
        times: dict[str, list[float]] = {name: [] for name in commands}
        for number in range(ROUNDS):
            print(f"\rround {number + 1}/{ROUNDS}", end="", file=sys.stderr, flush=True)
            for name, command in commands.items():
                times[name].append(start_ms(command))
        print(file=sys.stderr)
    for command in commands.values():
        print("$ " + " ".join(command))
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"exec to first KVM_RUN, median of {ROUNDS}")
    for name, median in medians.items():
        print(f"{name:<14}{median:8.1f} ms{median / medians['qemu microvm']:8.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
