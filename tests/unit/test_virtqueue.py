"""Rings from a hostile driver: every rule of section 2.7 that can be broken is noticed."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratovirt._native.guest_memory import GuestMemory, GuestMemoryError
from stratovirt._native.ram_mapping import RamMapping
from stratovirt._native.virtqueue import Virtqueue, VirtqueueError
from tests.ring import DESC_INDIRECT, DESC_NEXT, DESC_WRITE, DriverRing

RAM = 1 << 20
RING, DATA = 0x1000, 0x8000


def machine(size: int = 8, *, event_idx: bool = False) -> tuple[GuestMemory, DriverRing, Virtqueue]:
    memory = GuestMemory()
    memory.add(0, RamMapping(RAM), 0, RAM)
    ring = DriverRing(memory, RING, size)
    return memory, ring, Virtqueue(memory, size, ring.desc, ring.avail, ring.used, event_idx)


def test_a_chain_is_read_and_answered_in_order() -> None:
    memory, ring, queue = machine()
    memory.write(DATA, b"hello world")
    ring.offer(ring.chain([(DATA, 6, False), (DATA + 6, 5, False), (DATA + 64, 3, True),
                           (DATA + 128, 8, True)]))  # fmt: skip
    chain = queue.pop_chain()
    assert chain is not None
    assert (chain.readable_len, chain.writable_len) == (11, 11)
    assert chain.read(8) == b"hello wo"
    assert chain.read(99) == b"rld"
    assert chain.write(b"12345") == 5
    assert chain.write(b"67890abcdef") == 6
    assert queue.push_chain(chain)
    assert memory.read(DATA + 64, 3) + memory.read(DATA + 128, 8) == b"1234567890a"
    assert (ring.used_index(), ring.used_element(0)) == (1, (0, 11))
    assert queue.pop_chain() is None


def test_an_indirect_table_is_one_chain() -> None:
    memory, ring, queue = machine()
    table = 0x4000
    memory.write(table, struct.pack("<QIHH", DATA, 4, DESC_NEXT, 1))
    memory.write(table + 16, struct.pack("<QIHH", DATA + 16, 4, DESC_WRITE, 0))
    ring.describe(3, table, 32, DESC_INDIRECT)
    ring.offer(3)
    chain = queue.pop_chain()
    assert chain is not None
    assert (chain.head, chain.readable_len, chain.writable_len) == (3, 4, 4)


def break_loop(memory: GuestMemory, ring: DriverRing) -> None:
    ring.describe(0, DATA, 4, DESC_NEXT, 1)
    ring.describe(1, DATA, 4, DESC_NEXT, 0)
    ring.offer(0)


def break_address(memory: GuestMemory, ring: DriverRing) -> None:
    ring.describe(0, RAM - 2, 4)
    ring.offer(0)


def break_address_wrap(memory: GuestMemory, ring: DriverRing) -> None:
    ring.describe(0, (1 << 64) - 2, 4)
    ring.offer(0)


def break_head(memory: GuestMemory, ring: DriverRing) -> None:
    ring.offer(8)


def break_next(memory: GuestMemory, ring: DriverRing) -> None:
    ring.describe(0, DATA, 4, DESC_NEXT, 8)
    ring.offer(0)


def break_index(memory: GuestMemory, ring: DriverRing) -> None:
    memory.write(ring.avail + 2, struct.pack("<H", 9))


def break_order(memory: GuestMemory, ring: DriverRing) -> None:
    ring.offer(ring.chain([(DATA, 4, True), (DATA, 4, False)]))


def break_indirect_length(memory: GuestMemory, ring: DriverRing) -> None:
    ring.describe(0, DATA, 17, DESC_INDIRECT)
    ring.offer(0)


def break_indirect_nesting(memory: GuestMemory, ring: DriverRing) -> None:
    memory.write(DATA, struct.pack("<QIHH", DATA, 16, DESC_INDIRECT, 0))
    ring.describe(0, DATA, 16, DESC_INDIRECT)
    ring.offer(0)


def break_indirect_outside(memory: GuestMemory, ring: DriverRing) -> None:
    ring.describe(0, RAM, 16, DESC_INDIRECT)
    ring.offer(0)


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (break_loop, "longer than the queue, or loops"),
        (break_address, "outside guest RAM"),
        (break_address_wrap, "outside guest RAM"),
        (break_head, "starts outside the descriptor table"),
        (break_next, "next field points outside"),
        (break_index, "available index moved further"),
        (break_order, "device-readable descriptor follows"),
        (break_indirect_length, "indirect table is malformed"),
        (break_indirect_nesting, "indirect table is malformed"),
        (break_indirect_outside, "indirect table is malformed"),
    ],
)
def test_a_broken_ring_is_named_and_stays_broken(break_it, reason: str) -> None:  # type: ignore[no-untyped-def]
    memory, ring, queue = machine()
    break_it(memory, ring)
    for _ in range(2):
        with pytest.raises(VirtqueueError, match=reason):
            queue.pop_chain()
    assert queue.failure is not None and reason in queue.failure
    assert ring.used_index() == 0


@pytest.mark.parametrize(
    ("size", "desc", "avail", "used"),
    [(0, 0, 0x1000, 0x2000), (3, 0, 0x1000, 0x2000), (2048, 0, 0x9000, 0xA000),
     (8, 8, 0x1000, 0x2000), (8, 0, 0x1001, 0x2000), (8, 0, 0x1000, 0x2002),
     (8, RAM - 64, 0x1000, 0x2000), (8, 0, RAM, 0x2000), (8, 0, 0x1000, (1 << 64) - 4)],
)  # fmt: skip
def test_a_ring_in_a_wrong_place_is_refused(size: int, desc: int, avail: int, used: int) -> None:
    memory = GuestMemory()
    memory.add(0, RamMapping(RAM), 0, RAM)
    with pytest.raises(VirtqueueError):
        Virtqueue(memory, size, desc, avail, used, False)


@settings(max_examples=300)
@given(st.binary(min_size=8 * 16 + 32, max_size=8 * 16 + 32), st.booleans())
def test_no_ring_content_reaches_outside_ram(content: bytes, event_idx: bool) -> None:
    memory, ring, queue = machine(event_idx=event_idx)
    memory.write(ring.desc, content)
    try:
        for _ in range(16):
            chain = queue.pop_chain()
            if chain is None:
                break
            chain.read(64)
            chain.write(b"x" * 64)
            queue.push_chain(chain)
    except VirtqueueError:
        assert queue.failure


def test_event_idx_asks_for_an_interrupt_only_at_the_drivers_mark() -> None:
    memory, ring, queue = machine(event_idx=True)
    wanted = []
    for number in range(4):
        ring.offer(ring.chain([(DATA, 4, True)], first=number))
        memory.write(ring.avail + 4 + 2 * ring.size, struct.pack("<H", 2))
        chain = queue.pop_chain()
        assert chain is not None
        wanted.append(queue.push_chain(chain))
    # The first is always announced (nothing was signalled before); then index 3 passes mark 2.
    assert wanted == [True, False, True, False]


def test_no_interrupt_flag_is_respected_without_event_idx() -> None:
    memory, ring, queue = machine()
    memory.write(ring.avail, struct.pack("<H", 1))
    ring.offer(ring.chain([(DATA, 4, True)]))
    chain = queue.pop_chain()
    assert chain is not None
    assert not queue.push_chain(chain)


def test_guest_memory_refuses_what_is_not_ram() -> None:
    memory = GuestMemory()
    mapping = RamMapping(8192)
    memory.add(0x1000, mapping, 0, 4096)
    memory.add(0x10000, mapping, 4096, 4096)
    memory.write(0x1FFF, b"x")
    for gpa, size in ((0, 1), (0xFFF, 2), (0x1FFF, 2), (0x2000, 1), ((1 << 64) - 1, 2)):
        with pytest.raises(GuestMemoryError):
            memory.read(gpa, size)
    with pytest.raises(ValueError, match="overlap"):
        memory.add(0x1800, mapping, 0, 4096)
    with pytest.raises(ValueError, match="inside"):
        memory.add(0x20000, mapping, 4096, 8192)
