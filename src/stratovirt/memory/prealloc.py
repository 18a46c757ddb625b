"""Guest RAM allocated before the guest runs: by several threads, with progress in the log."""

from __future__ import annotations

import _thread
import os
import time

from stratovirt._native.guest_memory import RamMapping
from stratovirt.config.kinds import size_text
from stratovirt.runtime.log import Log

log = Log(__name__)

CHUNK = 128 << 20
MOST_THREADS = 8
"""More only wait for the host's memory."""
MEMINFO = "/proc/meminfo"
NODES = "/sys/devices/system/node"
PROGRESS_S = 1.0


class _Work:
    """Chunks to do, taken by whichever thread is free."""

    def __init__(self, mapping: RamMapping, offset: int, size: int, cpus: set[int]) -> None:
        self._mapping, self._cpus = mapping, cpus
        self._lock = _thread.allocate_lock()
        self._next, self._end = offset, offset + size
        self.done = 0
        self.error: OSError | None = None

    def run(self) -> None:
        """Do chunks until none is left or one failed, on the CPUs next to the memory."""
        os.sched_setaffinity(0, self._cpus)
        while True:
            with self._lock:
                offset = self._next
                if offset >= self._end or self.error is not None:
                    return
                self._next += CHUNK
            size = min(CHUNK, self._end - offset)
            try:
                self._mapping.populate(offset, size)
            except OSError as error:
                self.error = error
                return
            with self._lock:
                self.done += size


def available_bytes() -> int | None:
    """What the host could allocate without swapping (proc(5)); None where it does not say."""
    try:
        with open(MEMINFO, encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) << 10
    except FileNotFoundError:
        return None  # a jail without /proc
    return None


def _cpus_of(nodes: tuple[int, ...]) -> set[int]:
    """The CPUs of these nodes that this process may use; all it may use if there are none."""
    allowed = os.sched_getaffinity(0)
    found: set[int] = set()
    for node in nodes:
        with open(f"{NODES}/node{node}/cpulist", encoding="ascii") as file:
            text = file.read().strip()
        for part in text.split(",") if text else ():
            first, _, last = part.partition("-")
            found |= set(range(int(first), int(last or first) + 1))
    return allowed & found or allowed


def populate(
    mapping: RamMapping, offset: int, size: int, source: str, nodes: tuple[int, ...] = ()
) -> None:
    """Allocate [offset, offset+size) of `mapping`, by CPUs of the host's `nodes`.

    Raises OSError when the host has too little.
    """
    cpus = _cpus_of(nodes)
    work = _Work(mapping, offset, size, cpus)
    chunks = -(-size // CHUNK)
    count = min(MOST_THREADS, len(cpus), chunks)
    ended = [_thread.allocate_lock() for _ in range(count)]

    def serve(lock: _thread.LockType) -> None:
        try:
            work.run()
        finally:
            lock.release()

    for lock in ended:
        lock.acquire()
        _thread.start_new_thread(serve, (lock,))
    started = time.monotonic()
    for lock in ended:
        while not lock.acquire(timeout=PROGRESS_S):
            log.info(
                f"{source}: {size_text(work.done)} of {size_text(size)} allocated "
                f"({100 * work.done // size} %)"
            )
    if work.error is not None:
        raise work.error
    log.info(
        f"{source}: {size_text(size)} allocated by {count} threads in "
        f"{time.monotonic() - started:.1f} s"
    )
