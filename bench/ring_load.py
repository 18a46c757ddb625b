"""A virtio-blk driver without a guest: rings and buffers in shared memory, real eventfds."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
from pathlib import Path

RAM_BYTES = 64 << 20
RINGS_GPA, SLOTS_GPA = 0, 1 << 20
RING_SIZE = 256


class Result(ctypes.Structure):
    """What ring_driver.c counts."""

    _fields_ = [
        ("requests", ctypes.c_uint64), ("errors", ctypes.c_uint64), ("kicks", ctypes.c_uint64),
        ("interrupts", ctypes.c_uint64), ("seconds", ctypes.c_double),
    ]  # fmt: skip


def compile_driver(folder: Path) -> ctypes.CDLL:
    """Build ring_driver.c as a library in `folder` and load it."""
    library = folder / "ring_driver.so"
    source = Path(__file__).with_name("ring_driver.c")
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
    loaded = ctypes.CDLL(str(library))
    for name in ("avail_offset", "used_offset"):
        getattr(loaded, name).restype = ctypes.c_size_t
    return loaded


class RingLoad:
    """Guest RAM as a memfd, one ring in it, its doorbell and its interrupt."""

    def __init__(self, driver: ctypes.CDLL) -> None:
        self._driver = driver
        self.ram_fd = os.memfd_create("ram")
        os.ftruncate(self.ram_fd, RAM_BYTES)
        self._ram = mmap.mmap(self.ram_fd, RAM_BYTES)
        self.kick_fd, self.call_fd = os.eventfd(0), os.eventfd(0)
        self.desc, self.avail = RINGS_GPA, RINGS_GPA + int(driver.avail_offset())
        self.used = RINGS_GPA + int(driver.used_offset())

    @property
    def address(self) -> int:
        """Where the RAM is in this process."""
        return ctypes.addressof(ctypes.c_char.from_buffer(self._ram))

    def run(
        self, *, depth: int, size: int, sectors: int, seconds: float, sequential: bool = False,
        write: bool = False,
    ) -> Result:  # fmt: skip
        """Keep `depth` requests of `size` bytes in flight for that long."""
        result = Result()
        status = self._driver.drive(
            ctypes.c_void_p(self.address), ctypes.c_uint64(RINGS_GPA), ctypes.c_uint64(SLOTS_GPA),
            int(write), int(sequential), depth, size, ctypes.c_uint64(sectors), self.kick_fd,
            self.call_fd, ctypes.c_double(seconds), ctypes.byref(result),
        )  # fmt: skip
        if status or result.errors:
            raise RuntimeError(f"the device failed {result.errors} of {result.requests} requests")
        return result

    def close(self) -> None:
        """Give all of it back."""
        for fd in (self.ram_fd, self.kick_fd, self.call_fd):
            os.close(fd)
