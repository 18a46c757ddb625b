"""Writers in the kernel: vhost-net logs where it is told to; vhost-vsock and VFIO cannot."""

import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from stratovirt._native.guest_memory import GuestMemory
from stratovirt._native.interrupt import InterruptStatus, Notifier
from stratovirt._native.ram_mapping import RamMapping
from stratovirt._native.vhost import F_LOG_ALL
from stratovirt._native.virtqueue import Virtqueue
from stratovirt.memory.address_space import AddressSpace
from stratovirt.memory.dirty_log import DirtyLog, DirtyLogError
from stratovirt.net.back_end import PairSetup
from stratovirt.net.tap_back_end import VhostPair
from stratovirt.vfio.container import VfioContainer
from stratovirt.virtio.device import VERSION_1, ActiveQueue
from stratovirt.virtio.vsock import Vsock

SIZE = 1 << 20
USED = 0x3000


class Kernel:
    """A vhost device that notes what it is told, in order."""

    def __init__(self, features: int = VERSION_1 | F_LOG_ALL) -> None:
        self._features = features
        self.told: list[tuple[Any, ...]] = []

    def get_features(self) -> int:
        return self._features

    def __getattr__(self, name: str) -> Any:
        return lambda *words: self.told.append((name, *words))

    def take(self) -> list[tuple[Any, ...]]:
        told, self.told = self.told, []
        return told


class Side:
    """Guest memory, its log and a pair of queues."""

    def __init__(self) -> None:
        self.memory = GuestMemory()
        self.memory.add(0, RamMapping(SIZE), 0, SIZE)
        self.log = DirtyLog(self.memory)
        self.fds = [os.eventfd(0) for _ in range(2)]
        self.queues = [
            ActiveQueue(
                index,
                Virtqueue(self.memory, 8, 0x1000, 0x2000, USED + 0x1000 * index, False),
                self.fds[0],
                Notifier(InterruptStatus(), 1, self.fds[1]),
            )
            for index in range(2)
        ]

    def pair(self, kernel: Kernel) -> VhostPair:
        setup = PairSetup(
            0, *self.queues, agreed=VERSION_1, memory=self.memory, iothread=None,
            control=None, failure_fd=-1, card="card",  # type: ignore[arg-type]
        )  # fmt: skip
        return VhostPair(kernel, 7, setup, "-netdev tap,id=n")  # type: ignore[arg-type]


@pytest.fixture
def side() -> Iterator[Side]:
    made = Side()
    yield made
    for fd in made.fds:
        os.close(fd)


def test_vhost_net_logs_while_its_rings_are_served(side: Side) -> None:
    kernel = Kernel()
    pair = side.pair(kernel)
    pair.start()
    rings = [queue.ring for queue in side.queues]
    started = kernel.take()
    assert started[:2] == [("set_features", VERSION_1), ("set_memory", side.memory)]
    assert [words[-1] for words in started if words[0] == "set_ring"] == [False, False]
    side.log.start()
    # The place of the log comes before the feature that uses it.
    assert kernel.take() == [
        ("set_log", side.memory),
        ("set_features", VERSION_1 | F_LOG_ALL),
        ("set_ring_address", 0, rings[0], True),
        ("set_ring_address", 1, rings[1], True),
    ]
    side.log.stop()
    assert kernel.take() == [
        ("set_features", VERSION_1),
        ("set_ring_address", 0, rings[0], False),
        ("set_ring_address", 1, rings[1], False),
    ]
    pair.stop()
    kernel.take()
    side.log.start()
    assert kernel.take() == [], "it has no rings and writes nothing"


def test_vhost_net_that_starts_while_writes_are_logged_logs_from_its_first_ring_on(
    side: Side,
) -> None:
    kernel = Kernel()
    side.log.start()
    side.pair(kernel).start()
    names = [words[0] for words in kernel.told]
    assert names.index("set_memory") < names.index("set_log")
    last = [words for words in kernel.told if words[0] == "set_features"][-1]
    assert last[1] & F_LOG_ALL and names.index("set_net_backend") > kernel.told.index(last)
    assert [words[-1] for words in kernel.told if words[0] == "set_ring"] == [True, True]


def test_a_kernel_without_a_log_serves_and_is_named(side: Side) -> None:
    kernel = Kernel(VERSION_1)
    pair = side.pair(kernel)
    pair.start()
    with pytest.raises(DirtyLogError, match=r"id=n: the kernel's vhost-net has no log"):
        side.log.start()
    pair.stop()
    side.log.start()
    pair.start()
    assert not any(words[0] == "set_log" for words in kernel.told)
    with pytest.raises(DirtyLogError, match="vhost-net has no log"):
        side.log.collect()


def test_vhost_vsock_ends_the_log_once_it_has_had_its_rings(side: Side) -> None:
    host = SimpleNamespace(memory=side.memory)
    vsock = Vsock("v", 3, Kernel(), host)  # type: ignore[arg-type]
    side.log.start()
    vsock.activate(side.queues, VERSION_1)
    for refused in (side.log.collect, side.log.start):
        with pytest.raises(DirtyLogError, match="v: the kernel's vhost-vsock does not log"):
            refused()
    # What it received until now is in no log; the next one is whole.
    vsock.deactivate()
    with pytest.raises(DirtyLogError, match="v: the kernel's vhost-vsock does not log"):
        side.log.collect()
    side.log.start()
    assert [len(block) for block in side.log.collect()] == [0]


def test_a_function_of_the_host_ends_the_log_until_it_leaves(side: Side) -> None:
    accelerator = SimpleNamespace(set_vfio_group=lambda *_group, **_change: None)
    space = AddressSpace("memory", 1 << 40)
    container = VfioContainer(side.memory, space, accelerator, None)  # type: ignore[arg-type]
    group = SimpleNamespace(fd=-1, is_viable=True, join=lambda _container: None, close=lambda: None)
    kernel = SimpleNamespace(use_type1=lambda: None, close=lambda: None)
    container._add_group(group, kernel, True, "-device vfio-pci")  # type: ignore[arg-type]
    container._container = kernel  # type: ignore[assignment]
    container._groups["5"] = group, 1  # type: ignore[assignment]
    with pytest.raises(DirtyLogError, match=r"\(VFIO\) write memory that no log"):
        side.log.start()
    container.leave("5")
    side.log.start()
    assert [len(block) for block in side.log.collect()] == [0]
