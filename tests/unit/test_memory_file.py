"""RAM of every backing to a sparse file and back, byte by byte."""

import os
from pathlib import Path

import pytest

from stratovirt._native.guest_memory import GuestMemory
from stratovirt._native.memory_file import CancelledError, MemoryFile
from stratovirt._native.ram_mapping import RamMapping

MIB = 1 << 20
PART = 4 * MIB


def make_ram(folder: Path) -> tuple[RamMapping, GuestMemory]:
    """Anonymous memory, a memfd, and the two halves of a private file with content of its own."""
    mapping = RamMapping(4 * PART, reserved=True)
    mapping.map(0, PART, -1, False, True)
    shared = os.memfd_create("part")
    os.ftruncate(shared, PART)
    mapping.map(PART, PART, shared, True, True)
    private = os.open(folder / "backing", os.O_RDWR | os.O_CREAT)
    os.ftruncate(private, 2 * PART)
    os.pwrite(private, b"file" * 1024, MIB)
    os.pwrite(private, b"half" * 1024, PART + 2 * MIB)
    mapping.map(2 * PART, PART, private, False, True)
    mapping.map(3 * PART, PART, private, False, True, file_offset=PART)
    # Of shared memory a page may be there that this process never touched.
    os.pwrite(shared, b"memfd" * 1000, 3 * MIB)
    for fd in (shared, private):
        os.close(fd)
    memory = GuestMemory()
    memory.add(0, mapping, 0, 4 * PART)
    return mapping, memory


def test_what_is_saved_is_loaded_and_nothing_else_takes_room(tmp_path: Path) -> None:
    mapping, memory = make_ram(tmp_path)
    for at in (0, 5000, PART - 3, PART + MIB, 2 * PART + 3 * MIB, 4 * PART - 1):
        memory.write(at, b"x")
    memory.write(2 * MIB, bytes(MIB))  # zeros that are there
    target = os.open(tmp_path / "memory", os.O_RDWR | os.O_CREAT)
    os.ftruncate(target, 4 * PART)
    writer = MemoryFile(mapping, target)
    writer.save()
    assert writer.done == 4 * PART
    content = (tmp_path / "memory").read_bytes()
    assert content == memory.read(0, 4 * PART)
    assert content[PART + 3 * MIB :].startswith(b"memfd" * 1000)
    assert content[2 * PART + MIB :].startswith(b"file")
    assert content[3 * PART + 2 * MIB :].startswith(b"half")
    assert writer.written < 24 * 4096
    assert (tmp_path / "memory").stat().st_blocks * 512 < 64 * 4096

    other = RamMapping(4 * PART)
    MemoryFile(other, target).load(PART, 3 * PART)
    assert bytes(memoryview(other)) == bytes(PART) + content[PART:]
    os.close(target)


def test_a_clone_that_wrote_nothing_saves_what_its_template_holds(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"\0" * MIB + b"template" * 512 + b"\0" * (PART - MIB - 4096))
    source, target = os.open(first, os.O_RDONLY), os.open(second, os.O_RDWR | os.O_CREAT)
    os.ftruncate(target, PART)
    clone = RamMapping(PART, source)
    MemoryFile(clone, target).save()
    assert second.read_bytes() == first.read_bytes()
    os.close(source)
    os.close(target)


def test_a_cancelled_save_says_so(tmp_path: Path) -> None:
    target = os.open(tmp_path / "memory", os.O_RDWR | os.O_CREAT)
    writer = MemoryFile(RamMapping(PART), target)
    writer.cancel()
    with pytest.raises(CancelledError):
        writer.save()
    os.close(target)


def test_ram_that_ends_within_a_page_is_saved_to_its_last_byte(tmp_path: Path) -> None:
    size = MIB + 10
    mapping = RamMapping(size)
    memory = GuestMemory()
    memory.add(0, mapping, 0, size)
    memory.write(size - 3, b"end")
    target = os.open(tmp_path / "memory", os.O_RDWR | os.O_CREAT)
    os.ftruncate(target, size)
    MemoryFile(mapping, target).save()
    assert (tmp_path / "memory").read_bytes() == bytes(size - 3) + b"end"
    os.close(target)
