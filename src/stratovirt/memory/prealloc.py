"""Guest RAM allocated before the guest runs: by several threads, with progress in the log."""

from __future__ import annotations

import _thread
import os
import time

from stratovirt._native.ram_mapping import RamMapping
from stratovirt.config.kinds import size_text
from stratovirt.memory.backing import RamError
from stratovirt.runtime.log import Log
from stratovirt.runtime.loop import Loop
from stratovirt.runtime.threads import start_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

log = Log(__name__)

CHUNK = 128 << 20
MOST_THREADS = 8
"""More threads gain nothing: they wait for the host's memory bandwidth."""
MEMINFO = "/proc/meminfo"
NODES = "/sys/devices/system/node"
PROGRESS_NS = 1_000_000_000


class Allocation:
    """Part [offset, offset+size) of a mapping, to be allocated by CPUs of the host's `nodes`.

    `start` begins, `finish` waits and raises RamError when the host had too little memory; `cancel`
    makes the threads stop after their current chunk.  The last thread calls `on_ended`.
    """

    def __init__(
        self,
        mapping: RamMapping,
        offset: int,
        size: int,
        source: str,
        nodes: tuple[int, ...] = (),
    ) -> None:
        self._mapping, self._size, self._source = mapping, size, source
        self._cpus = _cpus_of(nodes)
        self._lock = _thread.allocate_lock()
        self._next, self._end = offset, offset + size
        self._threads: list[_thread.LockType] = []
        self._running = 0
        self._started = 0.0
        self._done = 0
        self._error: OSError | None = None
        self.on_ended: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Start the threads."""
        self._started = time.monotonic()
        chunks = -(-self._size // CHUNK)
        self._running = min(MOST_THREADS, len(self._cpus), chunks)
        self._threads = [_thread.allocate_lock() for _ in range(self._running)]
        for number, ended in enumerate(self._threads):
            ended.acquire()
            start_thread(f"prealloc{number}", self._serve, ended)

    @property
    def is_running(self) -> bool:
        """Whether a thread still works."""
        return self._running > 0

    def cancel(self) -> None:
        """Stop the threads after their current chunks."""
        with self._lock:
            self._next = self._end

    def finish(self) -> None:
        """Wait until every thread has ended; raises RamError."""
        for ended in self._threads:
            ended.acquire()
        if self._error is not None:
            raise RamError(
                f"{self._source}: cannot map {size_text(self._size)}: {self._error.strerror}"
            )
        log.info(
            f"{self._source}: {size_text(self._done)} allocated by {len(self._threads)} threads "
            f"in {time.monotonic() - self._started:.1f} s"
        )

    def tell_progress(self) -> None:
        """Log the progress."""
        log.info(
            f"{self._source}: {size_text(self._done)} of {size_text(self._size)} allocated "
            f"({100 * self._done // self._size} %)"
        )

    def _serve(self, ended: _thread.LockType) -> None:
        try:
            self._work()
        finally:
            with self._lock:
                self._running -= 1
                is_last = not self._running
            if is_last:
                self.on_ended()
            ended.release()

    def _work(self) -> None:
        # Run on the CPUs of the memory's NUMA nodes.
        os.sched_setaffinity(0, self._cpus)
        while True:
            with self._lock:
                offset = self._next
                if offset >= self._end or self._error is not None:
                    return
                self._next += CHUNK
            size = min(CHUNK, self._end - offset)
            try:
                self._mapping.populate(offset, size)
            except OSError as error:
                self._error = error
                return
            with self._lock:
                self._done += size


def allocate(allocations: list[Allocation], loop: Loop) -> None:
    """Allocate one after the other while `loop` serves clients; raises RamError.

    When the loop is stopped this returns early, with no thread left.
    """
    for allocation in allocations:
        if loop.is_stopped:
            return
        allocation.on_ended = lambda: loop.call_soon(lambda: None)
        allocation.start()
        _tell_later(allocation, loop)
        loop.run(until=lambda one=allocation: not one.is_running)  # type: ignore[misc]
        allocation.cancel()
        allocation.finish()


def _tell_later(allocation: Allocation, loop: Loop) -> None:
    def tell() -> None:
        if allocation.is_running:
            allocation.tell_progress()
            _tell_later(allocation, loop)

    loop.call_at(time.monotonic_ns() + PROGRESS_NS, tell)


def available_bytes() -> int | None:
    """MemAvailable of the host (proc(5)), in bytes; None if it is not reported."""
    try:
        with open(MEMINFO, encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) << 10
    except FileNotFoundError:
        return None  # a jail without /proc
    return None


def _cpus_of(nodes: tuple[int, ...]) -> set[int]:
    """The allowed CPUs of this process in these nodes; all allowed ones if that is none."""
    allowed = os.sched_getaffinity(0)
    found: set[int] = set()
    for node in nodes:
        with open(f"{NODES}/node{node}/cpulist", encoding="ascii") as file:
            text = file.read().strip()
        for part in text.split(",") if text else ():
            first, _, last = part.partition("-")
            found |= set(range(int(first), int(last or first) + 1))
    return allowed & found or allowed
