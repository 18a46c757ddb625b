"""The log of written pages: what is in it, once, and what is not."""

import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratovirt._native.guest_memory import GuestMemory
from stratovirt._native.ram_mapping import RamMapping
from stratovirt.memory.dirty_log import DirtyLog, DirtyLogError

PAGE = 4096
SIZE = 300 * PAGE
HIGH = (1 << 32) + 7 * PAGE


def machine() -> tuple[GuestMemory, DirtyLog]:
    """RAM in two blocks, of which the second starts within a word of the log."""
    memory = GuestMemory()
    memory.add(0, RamMapping(SIZE), 0, SIZE)
    memory.add(HIGH, RamMapping(SIZE), 0, SIZE)
    return memory, DirtyLog(memory)


def pages(log: DirtyLog) -> list[int]:
    return [page for block in log.collect() for page in block]


def touched(gpa: int, size: int) -> set[int]:
    return set(range(gpa & -PAGE, gpa + size, PAGE)) if size else set()


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, HIGH]),
            st.integers(0, SIZE),
            st.integers(0, 70 * PAGE),
        ),
        max_size=8,
    )
)
def test_the_log_is_the_pages_that_writes_touch(writes: list[tuple[int, int, int]]) -> None:
    memory, log = machine()
    log.start()
    expected: set[int] = set()
    for base, offset, size in writes:
        size = min(size, SIZE - offset)
        if size:
            memory.write(base + offset, b"x" * size)
        expected |= touched(base + offset, size)
    blocks = log.collect()
    found = [page for block in blocks for page in block]
    assert found == sorted(expected)
    assert sum(map(len, blocks)) == len(expected)
    assert pages(log) == []


def test_nothing_is_logged_before_the_start_and_after_the_end() -> None:
    memory, log = machine()
    memory.write(0, b"x")
    log.start()
    assert log.is_running and pages(log) == []
    memory.write(PAGE, b"x")
    log.stop()
    memory.write(2 * PAGE, b"x")
    assert not log.is_running
    with pytest.raises(ValueError, match="not logged"):
        log.collect()
    log.start()
    assert pages(log) == [], "what was not collected is forgotten"


def test_pages_given_back_and_files_read_into_memory_are_logged(tmp_path: Path) -> None:
    memory, log = machine()
    (tmp_path / "file").write_bytes(b"x" * 5000)
    log.start()
    memory.discard_pages(b"\x03\0\0\0\x09\0\0\0")
    assert pages(log) == [3 * PAGE, 9 * PAGE]
    with open(tmp_path / "file", "rb") as file:
        assert memory.readinto_from(file.fileno(), HIGH, 8 * PAGE, 0) == 5000
    assert pages(log) == [HIGH, HIGH + PAGE]


def test_writes_of_many_threads_are_each_in_one_answer_or_in_the_next() -> None:
    memory, log = machine()
    log.start()
    rounds = 200
    seen = [0] * 4

    def write(number: int) -> None:
        for value in range(rounds):
            # Neighbours share a word of the log.
            memory.write(number * PAGE, value.to_bytes(4, "little"))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()

    def collect() -> None:
        # A copy that follows the log, as a migration's, has every write in the end.
        for page in pages(log):
            seen[page // PAGE] = int.from_bytes(memory.read(page, 4), "little")

    while any(thread.is_alive() for thread in threads):
        collect()
    collect()
    assert seen == [rounds - 1] * 4


def test_a_log_in_a_file_is_filled_by_whoever_maps_it() -> None:
    memory, log = machine()
    fd = os.memfd_create("log")
    os.truncate(fd, memory.log_size)
    memory.share_log(fd)
    log.start()
    os.pwrite(fd, b"\x81", HIGH // PAGE // 8)
    memory.write(0, b"x")
    # Bit 7 is the block's first page; bit 0 is no RAM.
    assert pages(log) == [0, HIGH]
    log.stop()
    assert os.fstat(fd).st_blocks == 0, "the bits have gone back to the host"


class Peer:
    """A writer that logs elsewhere, or cannot."""

    log_obstacle: str | None = None

    def __init__(self, memory: GuestMemory, error: OSError | None = None) -> None:
        self._memory, self._error = memory, error
        self.is_logging = False

    def start_log(self) -> None:
        if self._error is not None:
            raise self._error
        self.is_logging = True

    def collect_log(self) -> None:
        self._memory.write(5 * PAGE, b"x")

    def stop_log(self) -> None:
        self.is_logging = False


def test_writers_that_come_while_writes_are_logged_are_logged_too() -> None:
    memory, log = machine()
    first, second = Peer(memory), Peer(memory)
    memory.add_writer(first)
    assert not first.is_logging
    log.start()
    memory.add_writer(second)
    assert first.is_logging and second.is_logging
    memory.remove_writer(first)
    assert pages(log) == [5 * PAGE]
    log.stop()
    assert first.is_logging and not second.is_logging


def test_a_writer_that_cannot_be_logged_is_the_reason_of_an_error() -> None:
    memory, log = machine()
    log.start()
    peer = Peer(memory)
    peer.log_obstacle = "a device writes as it likes"
    memory.add_writer(peer)
    for refused in (log.collect, log.start):
        with pytest.raises(DirtyLogError, match="as it likes"):
            refused()
    # It has gone, and what it wrote is in no log.
    memory.remove_writer(peer)
    with pytest.raises(DirtyLogError, match="as it likes"):
        log.collect()
    log.start()
    assert pages(log) == []


def test_a_discard_across_two_blocks_is_in_the_log_of_both() -> None:
    ram, memory = RamMapping(16 * PAGE), GuestMemory()
    memory.add(0, ram, 0, 8 * PAGE)
    memory.add(HIGH, ram, 8 * PAGE, 8 * PAGE)
    log = DirtyLog(memory)
    log.start()
    numbers = (7, HIGH // PAGE, HIGH // PAGE + 1)
    memory.discard_pages(b"".join(number.to_bytes(4, "little") for number in numbers))
    assert pages(log) == [number * PAGE for number in numbers]


def test_a_failed_start_leaves_nothing_started() -> None:
    memory, log = machine()
    good = Peer(memory)
    memory.add_writer(good)
    memory.add_writer(Peer(memory, OSError(5, "VHOST_SET_LOG_BASE: no")))
    with pytest.raises(DirtyLogError, match="VHOST_SET_LOG_BASE: no"):
        log.start()
    assert not log.is_running and not good.is_logging


def test_a_log_has_no_bits_for_ram_that_comes_later() -> None:
    memory, log = machine()
    log.start()
    with pytest.raises(ValueError, match="no bits"):
        memory.add(1 << 40, RamMapping(PAGE), 0, PAGE)
