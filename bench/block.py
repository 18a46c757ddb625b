"""``make bench-block``: the block engine alone, its requests in io_uring beside one by one.

A load generator in this process plays the driver: it fills a ring in shared memory, rings the
engine's eventfd and waits for its interrupt.  4 KiB random reads, alternating rounds, medians.
"""

from __future__ import annotations

import os
import random
import statistics
import struct
import sys
import tempfile
import time
from pathlib import Path

from stratovirt._native.block_engine import BlockEngine
from stratovirt._native.block_queue import BlockQueue
from stratovirt._native.disk import Disk
from stratovirt._native.guest_memory import GuestMemory
from stratovirt._native.interrupt import InterruptStatus, Notifier
from stratovirt._native.ram_mapping import RamMapping
from stratovirt._native.uring import SpareRings
from stratovirt._native.virtqueue import Virtqueue
from stratovirt.virtio.engine_thread import EngineThread

ROUNDS = 5
IMAGE_MIB = 256
RAM = 16 << 20
RING_SIZE = 256
DESC, AVAIL, USED, REQUESTS, STRIDE = 0x1000, 0x8000, 0xA000, 0x10_0000, 0x4000


def measure(image: Path, *, direct: bool, depth: int, count: int, uring: bool) -> float:
    """Requests a second."""
    ram = RamMapping(RAM)
    memory = GuestMemory()
    memory.add(0, ram, 0, RAM)
    view = memoryview(ram).cast("B")
    # One store each: pack_into writes an index byte by byte, and the engine reads meanwhile.
    words = view.cast("H")
    ring = Virtqueue(memory, RING_SIZE, DESC, AVAIL, USED, False)
    buffered = os.open(image, os.O_RDWR)
    fd = os.open(image, os.O_RDWR | os.O_DIRECT) if direct else buffered
    kick, irq, failure = os.eventfd(0, os.EFD_NONBLOCK), os.eventfd(0), os.eventfd(0)
    engine = BlockEngine(
        [BlockQueue(ring, kick, Notifier(InterruptStatus(), 1, irq))],
        Disk(
            fd, buffered, direct_align=4096 if direct else 0,
            capacity=image.stat().st_size // 512, readonly=False,
        ),
        writeback=True, serial=b"", failure_fd=failure, rings=SpareRings() if uring else None,
    )  # fmt: skip
    sectors = image.stat().st_size // 4096
    for number in range(depth):
        at, first = REQUESTS + number * STRIDE, 3 * number
        struct.pack_into("<IIQ", view, at, 0, 0, random.randrange(sectors) * 8)
        pieces = ((at, 16, 1), (at + 0x1000, 4096, 3), (at + 0x2000, 1, 2))
        for index, (address, length, flags) in enumerate(pieces):
            place = DESC + 16 * (first + index)
            struct.pack_into("<QIHH", view, place, address, length, flags, first + index + 1)
    for slot in range(RING_SIZE):
        struct.pack_into("<H", view, AVAIL + 4 + 2 * slot, 3 * (slot % depth))
    thread = EngineThread(engine, None, "blk-bench")
    offered = 0
    started = time.perf_counter()
    for _ in range(count // depth):
        offered = offered + depth & 0xFFFF
        words[(AVAIL + 2) // 2] = offered
        os.eventfd_write(kick, 1)
        while words[(USED + 2) // 2] != offered:
            os.eventfd_read(irq)
    elapsed = time.perf_counter() - started
    thread.stop()
    for number in {fd, buffered, kick, irq, failure}:
        os.close(number)
    return count / elapsed


def main() -> int:
    """Measure and print."""
    cases = [
        ("tmpfs, cached", "/dev/shm", False, 1, 20_000),
        ("tmpfs, cached", "/dev/shm", False, 32, 200_000),
        ("disk, O_DIRECT", "/var/tmp", True, 1, 4_000),
        ("disk, O_DIRECT", "/var/tmp", True, 32, 40_000),
    ]  # fmt: skip
    print(f"4 KiB random reads, {ROUNDS} alternating rounds, medians; requests a second")
    print(f"{'':<18}{'depth':>6}{'one by one':>12}{'io_uring':>12}{'ratio':>8}")
    for name, folder, direct, depth, count in cases:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            image = Path(scratch) / "image"
            image.write_bytes(os.urandom(1 << 20) * IMAGE_MIB)
            found: dict[bool, list[float]] = {False: [], True: []}
            for _ in range(ROUNDS):
                for uring in found:
                    found[uring].append(
                        measure(image, direct=direct, depth=depth, count=count, uring=uring)
                    )
        one, many = (statistics.median(found[uring]) for uring in (False, True))
        print(f"{name:<18}{depth:>6}{one:>12.0f}{many:>12.0f}{many / one:>8.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
