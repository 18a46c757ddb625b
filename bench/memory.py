"""``make bench-memory``: -mem-prealloc beside a C loop of MADV_POPULATE_WRITE, as many threads.

A fresh process each, medians; a ratio over LIMIT fails.  The sides take turns at being first: under
a hypervisor the first to touch memory may wait for the host to provide it.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROUNDS = 10
RAM_MIB = 2048
LIMIT = 1.1
OURS = """
import sys, time
from stratovirt._native.ram_mapping import RamMapping
from stratovirt.memory.prealloc import Allocation
size = int(sys.argv[1]) << 20
mapping = RamMapping(size)
started = time.monotonic()
allocation = Allocation(mapping, 0, size, "bench")
allocation.start()
allocation.finish()
print(time.monotonic() - started)
"""


def seconds(command: list[str]) -> float:
    """What the command says that it took."""
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> int:
    """Measure and print."""
    from stratovirt.memory.prealloc import MOST_THREADS

    threads = min(MOST_THREADS, len(os.sched_getaffinity(0)))
    ours: list[float] = []
    theirs: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder, "populate"))
        source = Path(__file__).with_name("populate.c")
        subprocess.run(["gcc", "-O2", "-pthread", "-o", program, source], check=True)
        sides = [
            (ours, [sys.executable, "-c", OURS, str(RAM_MIB)]),
            (theirs, [program, str(RAM_MIB), str(threads)]),
        ]
        for _ in range(ROUNDS):
            for times, command in sides:
                times.append(seconds(command))
            sides.reverse()
    ratio = statistics.median(ours) / statistics.median(theirs)
    print(
        f"{RAM_MIB} MiB by {threads} threads: ours {statistics.median(ours):.3f} s, "
        f"C {statistics.median(theirs):.3f} s, ratio {ratio:.2f} (at most {LIMIT})"
    )
    return 0 if ratio <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
