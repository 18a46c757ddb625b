"""What a guest asks for at once is done in bounded steps, and nothing of it is lost."""

import _thread
import os
import struct
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from stratovirt._native.guest_memory import GuestMemory
from stratovirt._native.ram_mapping import RamMapping
from stratovirt._native.virtqueue import DescriptorChain, Virtqueue
from stratovirt.chardev.backend import Chardev
from stratovirt.devices.device_host import DeviceHost
from stratovirt.devices.fw_cfg import DMA_LOW, DMA_READ, DMA_SELECT, DMA_STEP, FwCfg
from stratovirt.runtime.eventfds import new_eventfd
from stratovirt.runtime.loop import Loop
from stratovirt.virtio.console import Console
from stratovirt.virtio.device import ActiveQueue
from stratovirt.virtio.served_queue import TURN_BYTES, TURN_CHAINS, ServedQueue
from tests.ring import DriverRing

RAM = 16 << 20
DATA = 1 << 20
TRANSMIT = 1


class Rig:
    """A loop, and one ring in guest memory whose doorbell it hears."""

    def __init__(self, size: int) -> None:
        self.loop = Loop(_thread.RLock())
        self.memory = GuestMemory()
        self.memory.add(0, RamMapping(RAM), 0, RAM)
        self.ring = DriverRing(self.memory, 0x1000, size)
        self.kick_fd = new_eventfd()
        self.notifier = SimpleNamespace(raise_interrupt=lambda: None)

    def queue(self, index: int = 0, done: int = 0) -> ActiveQueue:
        """The device's side, with `done` chains behind it."""
        ring, memory = self.ring, self.memory
        half = Virtqueue(memory, ring.size, ring.desc, ring.avail, ring.used, False)
        half.position = done, done
        return ActiveQueue(index, half, self.kick_fd, cast(Any, self.notifier))

    def turn(self) -> None:
        """Let everybody who wants one have a turn."""
        self.loop.call_soon(lambda: None)
        turns = iter((False, True))
        self.loop.run(until=lambda: next(turns))


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig(128)
    yield rig
    rig.loop.close()
    os.close(rig.kick_fd)


def served(rig: Rig, size: int) -> ServedQueue:
    def handle(chain: DescriptorChain) -> bool:
        chain.write(bytes(size))
        return True

    def fail(_why: object) -> None:
        raise AssertionError

    return ServedQueue(rig.loop, rig.queue(), handle, fail, fail)


@pytest.mark.parametrize(
    ("size", "each_turn"), [(TURN_BYTES, 1), (TURN_BYTES // 2, 2), (1, TURN_CHAINS)]
)
def test_a_turn_ends_after_so_many_bytes_or_chains_and_the_next_goes_on(
    rig: Rig, size: int, each_turn: int
) -> None:
    rig.ring.chain([(DATA, size, True)])
    for _ in range(100):
        rig.ring.offer(0)
    queue = served(rig, size)
    queue.start()
    for turn in range(1, 100 // each_turn + 1):
        rig.turn()
        assert rig.ring.used_index() == turn * each_turn
    queue.stop()


class Sink(Chardev):
    """Keeps what is written."""

    def __init__(self, loop: Loop) -> None:
        super().__init__(loop, "sink")
        self.written = b""

    def write(self, content: bytes) -> None:
        """Take it."""
        self.written += content


def console(rig: Rig, sink: Sink, done: int = 0) -> Console:
    host = cast(DeviceHost, SimpleNamespace(loop=rig.loop))
    console = Console("virtio-serial", host)
    console.add_port("port", sink)
    console.activate([rig.queue(TRANSMIT, done)], 0)
    return console


def test_output_of_many_turns_is_whole_though_a_snapshot_is_taken_in_between(rig: Rig) -> None:
    content = bytes(range(251)) * 2500
    assert len(content) > 9 * TURN_BYTES
    rig.memory.write(DATA, content)
    halves = [(DATA, 300_000, False), (DATA + 300_000, len(content) - 300_000, False)]
    rig.ring.offer(rig.ring.chain(halves))
    sink = Sink(rig.loop)
    first = console(rig, sink)
    for _ in range(4):
        rig.turn()
    first.quiesce()
    rig.turn()
    assert sink.written == content[: 4 * TURN_BYTES]
    first.resume()
    rig.turn()
    first.quiesce()
    state = first.save()
    second = console(rig, sink)
    second.restore(state)
    while rig.ring.used_index() == 0:
        rig.turn()
    assert sink.written == content
    # The next chain begins at its beginning.
    rig.ring.offer(rig.ring.chain([(DATA, 5, False)]))
    os.eventfd_write(rig.kick_fd, 1)
    rig.turn()
    assert sink.written == content + content[:5]
    second.quiesce()


def test_a_reset_forgets_how_far_the_output_was(rig: Rig) -> None:
    rig.ring.offer(rig.ring.chain([(DATA, 2 * TURN_BYTES, False)]))
    sink = Sink(rig.loop)
    device = console(rig, sink)
    rig.turn()
    device.deactivate()
    rig.memory.write(DATA, b"anew")
    sink.written = b""
    device.activate([rig.queue(TRANSMIT)], 0)
    rig.turn()
    assert sink.written[:4] == b"anew"
    device.quiesce()


def test_others_are_let_in_between_the_steps_of_a_long_transfer() -> None:
    content = bytes(range(241)) * (2 * DMA_STEP // 241)
    size = 4 * DMA_STEP
    memory = GuestMemory()
    memory.add(0, RamMapping(DATA + size), 0, DATA + size)
    memory.write(DATA, b"\xff" * size)
    seen = []
    device = FwCfg(memory, lambda: seen.append(memory.read(DATA + size - 1, 1)))
    device.add(0x20, content)
    memory.write(0, struct.pack(">IIQ", 0x20 << 16 | DMA_SELECT | DMA_READ, size, DATA))
    device.write(DMA_LOW, 4, 0)
    assert seen == [b"\xff"] * 3
    assert memory.read(DATA, size) == content.ljust(size, b"\0")
    assert memory.read(0, 4) == bytes(4)
