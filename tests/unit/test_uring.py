"""What the io_urings of disks can be used for by somebody who has taken the process over."""

import ctypes
import errno
import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from stratovirt._native.uring import Uring

ENTRIES = 8
SYS_SETUP, SYS_ENTER = 425, 426
SQ_RING, SQES = 0, 0x1000_0000
GETEVENTS = 1
OP_NOP, OP_READV, OP_OPENAT, OP_SOCKET = 0, 1, 18, 45
NO_FD = -100

libc = ctypes.CDLL(None, use_errno=True)


class Layout:
    """Where the kernel has heads and tails of a ring of this size, from a ring of our own."""

    def __init__(self) -> None:
        parameters = ctypes.create_string_buffer(120)
        self.fd = libc.syscall(SYS_SETUP, ENTRIES, parameters)
        assert self.fd >= 0
        # struct io_uring_params: sq_entries, cq_entries, ... then sq_off and cq_off from byte 40.
        fields = struct.unpack_from("<10I", parameters.raw, 40)
        self.sq_tail, self.sq_mask, self.sq_array = fields[1], fields[2], fields[6]
        done = struct.unpack_from("<10I", parameters.raw, 80)
        self.cq_tail, self.cq_mask, self.cqes = done[1], done[2], done[5]


def submit(ring_fd: int, layout: Layout, sqe: bytes) -> int:
    """Hand one request to the ring; what came of it."""
    rings = mmap.mmap(ring_fd, 4096, mmap.MAP_SHARED, offset=SQ_RING)
    sqes = mmap.mmap(ring_fd, 4096, mmap.MAP_SHARED, offset=SQES)
    (tail,) = struct.unpack_from("<I", rings, layout.sq_tail)
    (mask,) = struct.unpack_from("<I", rings, layout.sq_mask)
    (done,) = struct.unpack_from("<I", rings, layout.cq_tail)
    (done_mask,) = struct.unpack_from("<I", rings, layout.cq_mask)
    slot = tail & mask
    sqes[64 * slot : 64 * slot + 64] = sqe.ljust(64, b"\0")
    struct.pack_into("<I", rings, layout.sq_array + 4 * slot, slot)
    struct.pack_into("<I", rings, layout.sq_tail, tail + 1)
    assert libc.syscall(SYS_ENTER, ring_fd, 1, 1, GETEVENTS, None, 0) == 1
    (result,) = struct.unpack_from("<i", rings, layout.cqes + 16 * (done & done_mask) + 8)
    return int(result)


def sqe(opcode: int, fd: int, address: int = 0, length: int = 0) -> bytes:
    """struct io_uring_sqe up to len."""
    return struct.pack("<BBHiQQI", opcode, 0, 0, fd, 0, address, length)


def rings() -> set[int]:
    """This process's io_urings."""
    fds = Path("/proc/self/fd").iterdir()
    return {int(fd.name) for fd in fds if "io_uring" in os.path.realpath(fd)}


@pytest.fixture
def ring_fd() -> Iterator[int]:
    """A ring as disks have it."""
    before = rings()
    ring = Uring(ENTRIES)
    yield next(iter(rings() - before))
    del ring


def test_it_opens_no_files_and_makes_no_sockets(ring_fd: int) -> None:
    layout = Layout()
    path = ctypes.create_string_buffer(b"/etc/passwd")
    opening = sqe(OP_OPENAT, NO_FD, ctypes.addressof(path))
    opened = submit(layout.fd, layout, opening)
    assert opened >= 0, "a ring without limits does"
    os.close(opened)
    assert submit(ring_fd, layout, opening) == -errno.EACCES
    assert submit(ring_fd, layout, sqe(OP_SOCKET, 1)) == -errno.EACCES
    assert submit(ring_fd, layout, sqe(OP_NOP, 0)) == -errno.EACCES
    os.close(layout.fd)


def test_it_reads(ring_fd: int, tmp_path: Path) -> None:
    layout = Layout()
    (tmp_path / "file").write_bytes(b"content")
    file = os.open(tmp_path / "file", os.O_RDONLY)
    buffer = ctypes.create_string_buffer(16)
    iovec = ctypes.create_string_buffer(struct.pack("<QQ", ctypes.addressof(buffer), 16), 16)
    assert submit(ring_fd, layout, sqe(OP_READV, file, ctypes.addressof(iovec), 1)) == 7
    assert buffer.value == b"content"
    os.close(file)
    os.close(layout.fd)
