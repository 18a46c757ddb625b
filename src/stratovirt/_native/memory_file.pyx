"""Guest RAM to a sparse file and back: only what holds something is written or read.

A page is looked at when this process has it (pagemap(5)) or the file behind it does (SEEK_DATA),
so that nothing is allocated by looking; of those, pages of zeros are left out.
"""

from libc.errno cimport EINTR, EINVAL, ENXIO, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset
from posix.unistd cimport lseek, pread, pwrite

from stratovirt._native.ram_mapping cimport Part, RamMapping
from stratovirt._native.kernel cimport os_error, os_error_of

import os

cdef extern from "unistd.h" nogil:
    int SEEK_DATA, SEEK_HOLE

    long syscall(long number, ...)

cdef extern from "sys/syscall.h":
    long SYS_capget, SYS_capset

cdef extern from "linux/capability.h":
    struct __user_cap_header_struct:
        uint32_t version
        int pid
    struct __user_cap_data_struct:
        uint32_t effective, permitted, inheritable
    uint32_t _LINUX_CAPABILITY_VERSION_3
    int CAP_SYS_ADMIN

cdef enum:
    PAGE = 4096
    WINDOW_PAGES = 512           # looked up in pagemap at once, and the grain of progress
    PRESENT_OR_SWAPPED = 3       # bits 63 and 62 of an entry, shifted down

PAGEMAP = "/proc/self/pagemap"

cdef enum:
    NOT_OPENED = -1
    EVERY_PAGE = -2              # there is no /proc: every page is looked at

cdef int pagemap_fd = NOT_OPENED


def open_pagemap():
    """Open what `save` reads, once and for all of them; raises OSError.

    Without /proc, as in an empty root directory, `save` reads every page.

    It shows which pages there are and never where: the kernel asks whether whoever opened it was
    an administrator, and here nobody is.
    """
    global pagemap_fd
    cdef __user_cap_header_struct header
    cdef __user_cap_data_struct ours[2]
    cdef __user_cap_data_struct fewer[2]
    if pagemap_fd != NOT_OPENED:
        return
    header.version, header.pid = _LINUX_CAPABILITY_VERSION_3, 0
    _check(syscall(SYS_capget, &header, ours), "capget")
    memcpy(fewer, ours, sizeof(ours))
    fewer[CAP_SYS_ADMIN // 32].effective &= ~(<uint32_t>1 << CAP_SYS_ADMIN % 32)
    _check(syscall(SYS_capset, &header, fewer), "capset")
    try:
        pagemap_fd = os.open(PAGEMAP, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        pagemap_fd = EVERY_PAGE
    finally:
        _check(syscall(SYS_capset, &header, ours), "capset")


cdef int _check(long result, str what) except -1:
    if result < 0:
        raise os_error_of(errno, what)
    return 0


class CancelledError(Exception):
    """Somebody asked for an end."""


cdef class MemoryFile:
    """The RAM of one mapping and a file of the same layout and size.

    `save` and `load` run without the GIL, so that other threads may read `done` and
    `written` (bytes looked at, bytes moved) and call `cancel`.
    """

    cdef RamMapping _ram
    cdef int _fd
    cdef readonly uint64_t done
    cdef readonly uint64_t written
    cdef bint _cancelled
    cdef uint64_t *_entries      # of pagemap, for one window
    cdef int64_t _data, _hole    # the file's next data is [_data, _hole); -1: no file, no data

    def __cinit__(self, RamMapping ram not None, int fd):
        self._ram = ram
        self._fd = fd
        self._entries = <uint64_t *>malloc(WINDOW_PAGES * sizeof(uint64_t))
        if self._entries == NULL:
            raise MemoryError()

    def __dealloc__(self):
        free(self._entries)

    def cancel(self):
        """Make `save` raise CancelledError soon; from any thread."""
        self._cancelled = True

    def save(self):
        """Write all RAM to the file, as long as RAM and all holes; raises OSError or CancelledError.

        Nothing may write to RAM meanwhile.
        """
        cdef int result
        open_pagemap()
        with nogil:
            result = self._save(pagemap_fd)
        if result != 0:
            raise os_error(result)
        if self._cancelled:
            raise CancelledError

    cdef int _save(self, int pagemap) noexcept nogil:
        cdef uint64_t offset = 0, size
        cdef int i, result
        for i in range(self._ram._count):
            self._data = self._hole = 0
            while offset < self._ram._parts[i].end:
                if self._cancelled:
                    return 0
                size = min(<uint64_t>WINDOW_PAGES * PAGE, self._ram._parts[i].end - offset)
                result = self._save_window(&self._ram._parts[i], pagemap, offset, size)
                if result != 0:
                    return result
                offset += size
                self.done = offset
        return 0

    cdef int _save_window(self, Part *part, int pagemap, uint64_t offset,
                          uint64_t size) noexcept nogil:
        cdef uint64_t pages = (size + PAGE - 1) // PAGE, i, run = 0
        cdef uint8_t *start = self._ram._base + offset
        cdef int result
        if pagemap == EVERY_PAGE:
            memset(self._entries, 0xFF, pages * sizeof(uint64_t))
        elif pread(pagemap, self._entries, pages * sizeof(uint64_t),
                 <long>(<uintptr_t>start // PAGE * sizeof(uint64_t))) != <ssize_t>(
                     pages * sizeof(uint64_t)):
            return errno or EINVAL
        for i in range(pages):
            if ((self._entries[i] >> 62) & PRESENT_OR_SWAPPED or self._in_file(
                    part, offset + i * PAGE)) and not _is_zero(start + i * PAGE):
                run += 1
                continue
            result = self._write(offset + (i - run) * PAGE, run * PAGE)
            if result != 0:
                return result
            run = 0
        # RAM may end within its last page, and the file ends with RAM.
        return self._write(offset + (pages - run) * PAGE, size - (pages - run) * PAGE)

    cdef bint _in_file(self, Part *part, uint64_t offset) noexcept nogil:
        """Whether the file behind a part has data for the page at `offset`; asked in order."""
        cdef int64_t at
        if part.fd < 0 or self._data < 0:
            return False
        at = <int64_t>(offset - part.start + part.file_offset)
        if at >= self._hole:
            self._data = lseek(part.fd, at, SEEK_DATA)
            if self._data < 0 and errno == ENXIO:
                return False
            if self._data >= 0:
                self._hole = lseek(part.fd, self._data, SEEK_HOLE)
            if self._data < 0 or self._hole < 0:
                # hugetlbfs does not say, so every page may hold something.
                self._data = 0
                self._hole = <int64_t>1 << 62
        return at + PAGE > self._data

    cdef int _write(self, uint64_t offset, uint64_t size) noexcept nogil:
        cdef ssize_t count
        while size:
            count = pwrite(self._fd, self._ram._base + offset, size, <long>offset)
            if count < 0:
                if errno == EINTR:
                    continue
                return errno
            offset += count
            size -= count
            self.written += count
        return 0

    def load(self, uint64_t offset, uint64_t size):
        """Copy the file's data for [offset, offset+size) into RAM; raises OSError."""
        cdef int result
        if offset > self._ram.size or size > self._ram.size - offset:
            raise ValueError("the range does not lie inside the mapping")
        with nogil:
            result = self._load(offset, offset + size)
        if result != 0:
            raise os_error(result)

    cdef int _load(self, uint64_t offset, uint64_t end) noexcept nogil:
        cdef int64_t hole
        cdef uint64_t stop
        cdef ssize_t count
        while offset < end:
            hole = lseek(self._fd, <long>offset, SEEK_DATA)
            if hole < 0:
                return 0 if errno == ENXIO else errno
            offset = <uint64_t>hole
            hole = lseek(self._fd, hole, SEEK_HOLE)
            if hole < 0:
                return errno
            stop = min(<uint64_t>hole, end)
            while offset < stop:
                count = pread(self._fd, self._ram._base + offset, stop - offset, <long>offset)
                if count < 0 and errno != EINTR:
                    return errno
                if count == 0:
                    return EINVAL  # the file became shorter under our hands
                if count > 0:
                    offset += count
        return 0


cdef bint _is_zero(const uint8_t *page) noexcept nogil:
    cdef const uint64_t *words = <const uint64_t *>page
    # The first word tells of most pages that hold something.
    return words[0] == 0 and memcmp(page, page + 8, PAGE - 8) == 0
