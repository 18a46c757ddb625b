"""The block engine on a ring in this process, with io_uring and without."""

import os
import select
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from stratovirt._native.block_engine import BlockEngine
from stratovirt._native.block_queue import BlockQueue
from stratovirt._native.disk import Disk
from stratovirt._native.guest_memory import GuestMemory
from stratovirt._native.interrupt import InterruptStatus, Notifier
from stratovirt._native.ram_mapping import RamMapping
from stratovirt._native.uring import SpareRings
from stratovirt._native.virtqueue import Virtqueue
from stratovirt.virtio.engine_thread import EngineThread
from tests.machine_process import wait_until
from tests.ring import DriverRing

RING, REQUESTS, STRIDE = 0x1000, 0x10_0000, 0x4000
IN, OUT, FLUSH = 0, 1, 4
SIZE = 256


class DriverSide:
    """An engine on an image, and the driver's half of its ring."""

    def __init__(
        self,
        image: Path,
        *,
        direct: bool,
        uring: bool,
        writeback: bool = True,
        event_idx: bool = False,
    ) -> None:
        self._ram = RamMapping(16 << 20)
        self.memory = GuestMemory()
        self.memory.add(0, self._ram, 0, 16 << 20)
        self.ring = DriverRing(self.memory, RING, SIZE)
        parts = (self.ring.desc, self.ring.avail, self.ring.used)
        queue = Virtqueue(self.memory, SIZE, *parts, event_idx)
        self._fds = [os.open(image, os.O_RDWR)]
        self._fds.append(os.open(image, os.O_RDWR | os.O_DIRECT) if direct else self._fds[0])
        self._kick, self._irq, self.failure = (os.eventfd(0, os.EFD_NONBLOCK) for _ in range(3))
        self.engine = BlockEngine(
            [BlockQueue(queue, self._kick, Notifier(InterruptStatus(), 1, self._irq))],
            Disk(
                self._fds[1], self._fds[0], direct_align=4096 if direct else 0,
                capacity=image.stat().st_size // 512, readonly=False,
            ),
            writeback=writeback, serial=b"s", failure_fd=self.failure,
            rings=SpareRings() if uring else None,
        )  # fmt: skip
        self._thread = EngineThread(self.engine, None, "blk-test")
        self._offered = 0

    def offer(self, kind: int, sector: int, data: bytes = b"", length: int = 0) -> int:
        """Describe a request; the address of its buffers."""
        number = self._offered % 64
        at = REQUESTS + number * STRIDE
        self.memory.write(at, struct.pack("<IIQ", kind, 0, sector))
        self.memory.write(at + 0x3000, b"\xff")
        pieces = [(at, 16, False)]
        if data:
            self.memory.write(at + 0x1000, data)
            pieces.append((at + 0x1000, len(data), False))
        if length:
            pieces.append((at + 0x1000, length, True))
        pieces.append((at + 0x3000, 1, True))
        self.ring.offer(self.ring.chain(pieces, first=3 * number))
        self._offered += 1
        return at

    def kick(self) -> None:
        os.eventfd_write(self._kick, 1)
        wait_until(lambda: self.ring.used_index() == self._offered, "all come back", timeout=20)

    def take_back(self) -> None:
        """Wait for the interrupt and see all that is complete, as a driver does."""
        assert select.select([self._irq], [], [], 10)[0], "no interrupt"
        os.eventfd_read(self._irq)
        self.ring.want_interrupt_after(self.ring.used_index())

    def status(self, at: int) -> int:
        return self.memory.read(at + 0x3000, 1)[0]

    def close(self) -> None:
        self._thread.stop()
        for fd in {*self._fds, self._kick, self._irq, self.failure}:
            os.close(fd)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(os.urandom(1 << 20))
    return path


@pytest.fixture(params=[(d, u) for d in (False, True) for u in (False, True)], ids=str)
def disk(request: pytest.FixtureRequest, image: Path) -> Iterator[DriverSide]:
    direct, uring = request.param
    made = DriverSide(image, direct=direct, uring=uring)
    assert made.engine.is_asynchronous is uring
    yield made
    made.close()


def test_what_is_written_is_read_whatever_the_way(disk: DriverSide, image: Path) -> None:
    content = bytearray(image.read_bytes())
    writes = [disk.offer(OUT, 8 * n, bytes([n + 1]) * 4096) for n in range(32)]
    disk.kick()
    assert {disk.status(at) for at in writes} == {0}
    for n in range(32):
        content[4096 * n : 4096 * n + 4096] = bytes([n + 1]) * 4096
    reads = [disk.offer(IN, 8 * n, length=4096) for n in range(64)]
    disk.kick()
    for n, at in enumerate(reads):
        assert disk.status(at) == 0
        assert disk.memory.read(at + 0x1000, 4096) == content[4096 * n : 4096 * n + 4096]
    flush = disk.offer(FLUSH, 0)
    disk.kick()
    assert disk.status(flush) == 0 and image.read_bytes() == content
    done = disk.engine.requests
    assert (done.reads, done.writes, done.flushes) == (64, 32, 1)


def test_buffers_of_any_alignment_are_served(disk: DriverSide, image: Path) -> None:
    content = image.read_bytes()
    at = disk.offer(IN, 3, length=512)
    # The same request again, its data at an odd address.
    disk.ring.describe(0, at, 16, 1, 1)
    disk.ring.describe(1, at + 0x1001, 512, 1 | 2, 2)
    disk.kick()
    assert disk.status(at) == 0
    assert disk.memory.read(at + 0x1001, 512) == content[3 * 512 : 4 * 512]


def test_an_image_that_became_shorter_fails_that_request_alone(
    disk: DriverSide, image: Path
) -> None:
    os.truncate(image, 1 << 19)
    bad, good = disk.offer(IN, (1 << 19) // 512, length=4096), disk.offer(IN, 0, length=4096)
    disk.kick()
    assert (disk.status(bad), disk.status(good)) == (1, 0)


@pytest.mark.parametrize("uring", [False, True])
def test_without_write_back_a_write_is_durable_before_it_completes(
    image: Path, uring: bool
) -> None:
    disk = DriverSide(image, direct=True, uring=uring, writeback=False)
    at = disk.offer(OUT, 0, b"x" * 4096)
    disk.kick()
    assert disk.status(at) == 0 and image.read_bytes()[:4096] == b"x" * 4096
    disk.close()


@pytest.mark.parametrize("uring", [False, True])
def test_an_interrupt_that_waits_for_more_requests_comes_without_them_too(
    image: Path, uring: bool
) -> None:
    disk = DriverSide(image, direct=False, uring=uring, event_idx=True)
    disk.ring.want_interrupt_after(0)
    for depth in (1, 40, 1, 1, 1, 7, 3, 1, 1, 1, 1):
        for n in range(depth):
            disk.offer(IN, 8 * n, length=512)
        disk.kick()
        disk.take_back()
    disk.close()
