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
PROGRESS_S = 1.0


class _Work:
    """Chunks to do, taken by whichever thread is free."""

    def __init__(self, mapping: RamMapping, offset: int, size: int) -> None:
        self._mapping = mapping
        self._lock = _thread.allocate_lock()
        self._next, self._end = offset, offset + size
        self.done = 0
        self.error: OSError | None = None

    def run(self) -> None:
        """Do chunks until none is left or one failed."""
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


def populate(mapping: RamMapping, offset: int, size: int, source: str) -> None:
    """Allocate [offset, offset+size) of `mapping`; raises OSError when the host has too little."""
    work = _Work(mapping, offset, size)
    chunks = -(-size // CHUNK)
    count = min(MOST_THREADS, os.cpu_count() or 1, chunks)
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
