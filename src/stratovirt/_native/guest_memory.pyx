"""Guest RAM: mapped once, reached through guest physical addresses that are always checked."""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_FillInfo
from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy, memset

import os

cdef extern from "sys/mman.h" nogil:
    void *mmap(void *addr, size_t length, int prot, int flags, int fd, long offset)
    int munmap(void *addr, size_t length)
    int madvise(void *addr, size_t length, int advice)
    int PROT_READ, PROT_WRITE
    int MAP_PRIVATE, MAP_SHARED, MAP_ANONYMOUS, MAP_NORESERVE
    int MADV_DONTDUMP, MADV_HUGEPAGE, MADV_POPULATE_WRITE
    int MADV_DONTNEED, MADV_REMOVE
    void *MAP_FAILED


class GuestMemoryError(ValueError):
    """An access touches an address that is not guest RAM."""


cdef class RamMapping:
    """One piece of host memory that backs guest RAM; unmapped when the object goes.

    `size` is in bytes.  With `fd` below zero the memory is anonymous.  `shared` maps it so that
    other processes holding the file see it; `dump` keeps it in this process's core dumps;
    `prealloc` allocates all of it now.  Raises OSError when the host has no such memory.
    """

    def __cinit__(self, uint64_t size, int fd=-1, bint shared=False, bint dump=True,
                  bint prealloc=False):
        cdef int flags = MAP_SHARED if shared else MAP_PRIVATE
        cdef void *base
        if fd < 0:
            # Overcommitted like any process's heap; -mem-prealloc is how a user opts out.  A
            # file's pages are reserved, because hugetlbfs would kill who touches one too many.
            flags |= MAP_ANONYMOUS | MAP_NORESERVE
        base = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0)
        if base == MAP_FAILED:
            raise OSError(errno, os.strerror(errno))
        self._base = <uint8_t *>base
        self.size = size
        self.shared = shared
        self._shape[0] = <Py_ssize_t>size
        if not dump and madvise(base, size, MADV_DONTDUMP) != 0:
            raise OSError(errno, os.strerror(errno))
        if fd < 0 and not shared:
            # Advice only: a kernel without transparent huge pages says EINVAL and loses nothing.
            madvise(base, size, MADV_HUGEPAGE)
        if prealloc and madvise(base, size, MADV_POPULATE_WRITE) != 0:
            raise OSError(errno, os.strerror(errno))

    def __dealloc__(self):
        if self._base != NULL:
            munmap(self._base, self.size)

    @property
    def address(self):
        """Host virtual address of the first byte."""
        return <uintptr_t>self._base

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self._base, <Py_ssize_t>self.size, 0, flags)


cdef class GuestMemory:
    """All RAM of a machine by guest physical address (GPA).

    Blocks are added while the board is built and stay until the machine is gone, which is why
    engines may hold host pointers into them.
    """

    def __cinit__(self):
        self._count = 0
        self._mappings = []

    def add(self, uint64_t gpa, RamMapping mapping not None, uint64_t offset, uint64_t size):
        """Place `size` bytes of `mapping`, from `offset`, at `gpa`."""
        if offset > mapping.size or size > mapping.size - offset or size == 0:
            raise ValueError("the block does not lie inside its mapping")
        if gpa + size < gpa:
            raise ValueError("the block wraps around the address space")
        if self._count == MAX_BLOCKS:
            raise ValueError("too many RAM blocks")
        for i in range(self._count):
            if gpa < self._blocks[i].gpa + self._blocks[i].size and self._blocks[i].gpa < gpa + size:
                raise ValueError("RAM blocks overlap")
        self._blocks[self._count].gpa = gpa
        self._blocks[self._count].size = size
        self._blocks[self._count].hva = mapping._base + offset
        self._blocks[self._count].shared = mapping.shared
        self._count += 1
        self._mappings.append(mapping)

    cdef uint8_t *translate(self, uint64_t gpa, uint64_t size) noexcept nogil:
        """Host address of [gpa, gpa+size), or NULL unless all of it is in one RAM block."""
        cdef int i
        cdef uint64_t offset
        for i in range(self._count):
            if gpa >= self._blocks[i].gpa:
                offset = gpa - self._blocks[i].gpa
                if offset < self._blocks[i].size:
                    if size > self._blocks[i].size - offset:
                        return NULL
                    return self._blocks[i].hva + offset
        return NULL

    cdef uint8_t *_checked(self, uint64_t gpa, uint64_t size) except NULL:
        cdef uint8_t *hva = self.translate(gpa, size)
        if hva == NULL:
            raise GuestMemoryError(f"0x{gpa:x}..0x{gpa + size:x} is not guest RAM")
        return hva

    def contains(self, uint64_t gpa, uint64_t size):
        """Whether [gpa, gpa+size) lies in one block of RAM."""
        return self.translate(gpa, size) != NULL

    def read(self, uint64_t gpa, uint64_t size):
        """`size` bytes at `gpa`; raises GuestMemoryError outside RAM."""
        if size == 0:
            return b""
        return (<char *>self._checked(gpa, size))[:size]

    def write(self, uint64_t gpa, const uint8_t[::1] data not None):
        """Store `data` at `gpa`; raises GuestMemoryError outside RAM."""
        cdef uint64_t size = <uint64_t>data.shape[0]
        cdef uint8_t *hva
        if size == 0:
            return
        hva = self._checked(gpa, size)
        with nogil:
            memcpy(hva, &data[0], size)

    def discard_pages(self, bytes page_numbers not None):
        """Give 4 KiB pages, named by little-endian 32-bit numbers, back to the host.

        Their content is lost.  Returns how many of them were not RAM and were left alone.
        """
        cdef const uint32_t *pages = <const uint32_t *><const char *>page_numbers
        cdef Py_ssize_t count = len(page_numbers) // 4, i
        cdef Py_ssize_t refused = 0
        cdef uint8_t *page
        cdef uint8_t *start = NULL
        cdef uint64_t length = 0
        with nogil:
            for i in range(count):
                page = self.translate(<uint64_t>pages[i] << 12, 4096)
                if page == NULL:
                    refused += 1
                    continue
                # Neighbours go together, whichever way the driver counts.
                if start != NULL and page == start + length:
                    length += 4096
                elif start != NULL and page == start - 4096:
                    start = page
                    length += 4096
                else:
                    self._discard(start, length)
                    start = page
                    length = 4096
            self._discard(start, length)
        return refused

    cdef void _discard(self, uint8_t *start, uint64_t length) noexcept nogil:
        cdef int i
        cdef int advice = MADV_DONTNEED
        if start == NULL:
            return
        for i in range(self._count):
            if self._blocks[i].hva <= start < self._blocks[i].hva + self._blocks[i].size:
                # Of a shared file the page itself has to go, not just this mapping of it.
                advice = MADV_REMOVE if self._blocks[i].shared else MADV_DONTNEED
        # Huge pages of hugetlbfs cannot be given back in parts; then the host keeps them.
        madvise(start, length, advice)

    def readinto_from(self, int fd, uint64_t gpa, uint64_t size, uint64_t file_offset):
        """Fill [gpa, gpa+size) from `fd` at `file_offset` without a copy in between.

        Returns how many bytes the file gave (fewer than `size` at its end).
        """
        cdef uint8_t *hva
        if size == 0:
            return 0
        hva = self._checked(gpa, size)
        view = memoryview(<uint8_t[:size]>hva)
        done = 0
        while done < size:
            count = os.preadv(fd, [view[done:]], file_offset + done)
            if count == 0:
                break
            done += count
        return done
