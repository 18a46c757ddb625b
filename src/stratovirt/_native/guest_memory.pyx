"""Guest RAM by guest physical address: every access is checked, and logged while somebody asks."""

from cpython.buffer cimport (
    PyBUF_SIMPLE, PyBUF_WRITE, PyBuffer_Release, PyObject_GetBuffer)
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy
from posix.unistd cimport close
from stratovirt._native.atomics cimport publish
from stratovirt._native.dirty_log cimport PAGE_SHIFT, log_bytes, take_logged
from stratovirt._native.kernel cimport os_error
from stratovirt._native.ram_mapping cimport RamMapping

import os

cdef extern from "sys/mman.h" nogil:
    void *mmap(void *addr, size_t length, int prot, int flags, int fd, long offset)
    int munmap(void *addr, size_t length)
    int madvise(void *addr, size_t length, int advice)
    int PROT_READ, PROT_WRITE
    int MAP_SHARED, MAP_ANONYMOUS
    int MADV_REMOVE
    void *MAP_FAILED


class GuestMemoryError(ValueError):
    """An access touches an address that is not guest RAM."""


cdef class GuestMemory:
    """All RAM of a machine by guest physical address (GPA).

    Blocks are added while the board is built and stay until the machine is gone, which is why
    engines may hold host pointers into them.

    While it is logged (`start_log`), each write sets the bit of its pages.  Writers outside this
    process's own code (the guest, the kernel's vhost, peers) are `writers`: see
    _native.writer.Writer.
    """

    def __cinit__(self):
        self._count = 0
        self._mappings = []
        self.writers = []
        self.log_gaps = []
        self.log_fd = -1

    def __dealloc__(self):
        if self._log_area != NULL:
            munmap(self._log_area, self._log_bytes())
        if self.log_fd >= 0:
            close(self.log_fd)

    def add(self, uint64_t gpa, RamMapping mapping not None, uint64_t offset, uint64_t size):
        """Place `size` bytes of `mapping`, from `offset`, at `gpa`."""
        if offset > mapping.size or size > mapping.size - offset or size == 0:
            raise ValueError("the block does not lie inside its mapping")
        if gpa + size < gpa:
            raise ValueError("the block wraps around the address space")
        if self._count == MAX_BLOCKS:
            raise ValueError("too many RAM blocks")
        if self._log_area != NULL:
            raise ValueError("the log of written pages has no bits for further RAM")
        for i in range(self._count):
            if gpa < self._blocks[i].gpa + self._blocks[i].size and self._blocks[i].gpa < gpa + size:
                raise ValueError("RAM blocks overlap")
        self._blocks[self._count].gpa = gpa
        self._blocks[self._count].size = size
        self._blocks[self._count].hva = mapping._base + offset
        self._blocks[self._count].mapping = <void *>mapping
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

    def files(self):
        """(gpa, size, hva, fd, file offset, whether it is shared) of each part of RAM.

        The descriptors stay the mapping's; memory without a file has -1.
        """
        cdef int i, k
        cdef uint64_t start, end, low, high
        cdef RamMapping mapping
        found = []
        for i in range(self._count):
            mapping = <RamMapping>self._blocks[i].mapping
            start = self._blocks[i].hva - mapping._base
            end = start + self._blocks[i].size
            for k in range(mapping._count):
                low, high = max(start, mapping._parts[k].start), min(end, mapping._parts[k].end)
                if low < high:
                    found.append((
                        self._blocks[i].gpa + low - start, high - low, <uint64_t>mapping._base + low,
                        mapping._parts[k].fd,
                        mapping._parts[k].file_offset + low - mapping._parts[k].start,
                        bool(mapping._parts[k].shared)))
        return found

    def read(self, uint64_t gpa, uint64_t size):
        """`size` bytes at `gpa`; raises GuestMemoryError outside RAM."""
        if size == 0:
            return b""
        return (<char *>self._checked(gpa, size))[:size]

    def write(self, uint64_t gpa, data not None):
        """Store `data` at `gpa`; raises GuestMemoryError outside RAM."""
        cdef Py_buffer view
        cdef uint8_t *hva
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if view.len:
                hva = self._checked(gpa, <uint64_t>view.len)
                with nogil:
                    memcpy(hva, view.buf, <size_t>view.len)
                    wrote(self, hva, <uint64_t>view.len)
        finally:
            PyBuffer_Release(&view)

    def discard_pages(self, bytes page_numbers not None):
        """Give 4 KiB pages, named by little-endian 32-bit numbers, back to the host.

        Their content is lost.  Returns how many of them were not RAM and were left alone.  Pages
        stay while `is_pinned` says that a host device reaches them by their host address.
        """
        cdef const uint32_t *pages = <const uint32_t *><const char *>page_numbers
        cdef Py_ssize_t count = len(page_numbers) // 4, i
        cdef Py_ssize_t refused = 0
        cdef uint8_t *page
        cdef uint8_t *start = NULL
        cdef uint64_t length = 0
        if self.is_pinned:
            return 0
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
        if start == NULL:
            return
        for i in range(self._count):
            if self._blocks[i].hva <= start < self._blocks[i].hva + self._blocks[i].size:
                (<RamMapping>self._blocks[i].mapping).discard(start, length)
                wrote(self, start, length)
                return

    def readinto_from(self, int fd, uint64_t gpa, uint64_t size, uint64_t file_offset):
        """Fill [gpa, gpa+size) from `fd` at `file_offset` without a copy in between.

        Returns how many bytes the file gave (fewer than `size` at its end).
        """
        cdef uint8_t *hva
        if size == 0:
            return 0
        hva = self._checked(gpa, size)
        view = PyMemoryView_FromMemory(<char *>hva, <Py_ssize_t>size, PyBUF_WRITE)
        done = 0
        while done < size:
            count = os.preadv(fd, [view[done:]], file_offset + done)
            if count == 0:
                break
            wrote(self, hva + <uint64_t>done, count)
            done += count
        return done

    cdef uint64_t _log_bytes(self) noexcept nogil:
        # A word more: a bitmap that is moved in may end within the last one.
        cdef uint64_t end = 1
        cdef int i
        for i in range(self._count):
            end = max(end, self._blocks[i].gpa + self._blocks[i].size)
        return (((end - 1) >> (PAGE_SHIFT + 6)) + 2) * 8

    @property
    def log_size(self):
        """Bytes of the log, which has a bit for each page up to the end of the last block."""
        return self._log_bytes()

    def share_log(self, int fd):
        """Keep the log in the file `fd`, from now on owned, so that peers can set bits in it."""
        if self.log_fd >= 0 or self._log_area != NULL:
            raise ValueError("the log has its place")
        self.log_fd = fd

    @property
    def is_logged(self):
        """Whether writes are logged."""
        return self._log != NULL

    @property
    def log_address(self):
        """Host virtual address of the log, for the kernel's vhost."""
        return <uintptr_t>self._log_area

    def start_log(self):
        """Log this process's writes from now on; raises OSError without memory for the bits."""
        cdef void *area
        if self._log_area == NULL:
            area = mmap(NULL, self._log_bytes(), PROT_READ | PROT_WRITE,
                        MAP_SHARED | (MAP_ANONYMOUS if self.log_fd < 0 else 0), self.log_fd, 0)
            if area == MAP_FAILED:
                raise os_error(errno)
            self._log_area = <uint64_t *>area
        self.log_gaps.clear()
        # A writer that looked before this has stored before it looked.  Its processor may hold the
        # store back for nanoseconds still; the caller's next system call takes longer.
        publish(&self._log, self._log_area)

    def stop_log(self):
        """Log no more; the bits' memory goes back to the host."""
        publish(&self._log, NULL)
        if self._log_area != NULL and madvise(self._log_area, self._log_bytes(), MADV_REMOVE) != 0:
            raise os_error(errno)

    def take_log(self):
        """(gpa, size, bitmap) of each block; what is taken is logged no more.

        Bit n of a bitmap, little endian, is the block's page n of 4 KiB.
        """
        cdef int i
        cdef bytearray bits
        if self._log == NULL:
            raise ValueError("writes are not logged")
        taken = []
        for i in range(self._count):
            bits = bytearray((((self._blocks[i].size - 1) >> (PAGE_SHIFT + 6)) + 1) * 8)
            take_logged(self._log, self._blocks[i].gpa, self._blocks[i].size,
                        <uint64_t *><char *>bits)
            taken.append((self._blocks[i].gpa, self._blocks[i].size, bytes(bits)))
        return taken

    cdef void _log_write(self, uint64_t *log, const uint8_t *hva, uint64_t size) noexcept nogil:
        cdef int i
        cdef uint64_t offset, piece
        while size:
            for i in range(self._count):
                if self._blocks[i].hva <= hva < self._blocks[i].hva + self._blocks[i].size:
                    break
            else:
                return
            offset = hva - self._blocks[i].hva
            piece = min(size, self._blocks[i].size - offset)
            log_bytes(log, self._blocks[i].gpa + offset, piece)
            # Blocks on both sides of a board's gap may be neighbours in this process.
            hva += piece
            size -= piece

    def note_log_gap(self, str reason not None):
        """Some writes are not in the log: nothing that is collected until its next start is true."""
        if reason not in self.log_gaps:
            self.log_gaps.append(reason)

    def add_writer(self, writer not None):
        """Have the log know of a writer, which begins at once if writes are logged."""
        if self._log != NULL:
            if writer.log_obstacle is not None:
                self.note_log_gap(writer.log_obstacle)
            writer.start_log()
        self.writers.append(writer)

    def remove_writer(self, writer not None):
        """Forget a writer, which writes no more."""
        self.writers.remove(writer)
