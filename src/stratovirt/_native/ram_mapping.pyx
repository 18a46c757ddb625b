"""Guest RAM as this process maps it: backing, placement on the host's nodes, allocation, discard."""

from cpython.buffer cimport PyBuffer_FillInfo
from libc.errno cimport EINVAL, errno
from libc.stdint cimport uint8_t, uint64_t, uintptr_t
from libc.string cimport memset
from posix.unistd cimport close
from stratovirt._native.kernel cimport os_error

import os

cdef extern from "sys/mman.h" nogil:
    void *mmap(void *addr, size_t length, int prot, int flags, int fd, long offset)
    int munmap(void *addr, size_t length)
    int madvise(void *addr, size_t length, int advice)
    int PROT_NONE, PROT_READ, PROT_WRITE
    int MAP_PRIVATE, MAP_SHARED, MAP_ANONYMOUS, MAP_NORESERVE, MAP_FIXED
    int MADV_DONTDUMP, MADV_HUGEPAGE, MADV_POPULATE_WRITE
    int MADV_DONTNEED, MADV_REMOVE
    void *MAP_FAILED

cdef extern from * nogil:
    uint8_t __atomic_fetch_or(volatile uint8_t *at, uint8_t bits, int order)
    int __ATOMIC_RELAXED

cdef extern from "unistd.h" nogil:
    long syscall(long number, ...)

cdef extern from "sys/syscall.h" nogil:
    long SYS_mbind

cdef extern from "linux/mempolicy.h" nogil:
    int MPOL_PREFERRED, MPOL_BIND, MPOL_INTERLEAVE, MPOL_PREFERRED_MANY
    unsigned int MPOL_MF_STRICT, MPOL_MF_MOVE

POLICIES = {
    "preferred": MPOL_PREFERRED, "bind": MPOL_BIND, "interleave": MPOL_INTERLEAVE,
}

cdef enum:
    PAGE = 4096
    HUGE = 2 << 20
    GIANT = 1 << 30
    MASK_WORDS = 16        # 1024 nodes of the host


cdef class RamMapping:
    """Guest RAM in this process, one range of `size` bytes; unmapped when the object goes.

    It is mapped whole, or, as `reserved`, in parts of different backing: a guest's buffer may
    reach from one part into the next.  With `fd` below zero the memory is anonymous.  `shared`
    maps it so that other processes holding the file see it; `dump` keeps it in this process's
    core dumps.  Raises OSError when the host has no such memory.
    """

    def __cinit__(self, uint64_t size, int fd=-1, bint shared=False, bint dump=True, *,
                  bint reserved=False):
        cdef uint64_t alignment = HUGE if size < GIANT else GIANT
        cdef uint8_t *base
        cdef uint8_t *start
        # Aligned so that huge pages of any size fit; what is too much goes back at once.
        base = <uint8_t *>mmap(NULL, size + alignment, PROT_NONE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        if base == <uint8_t *>MAP_FAILED:
            raise os_error(errno)
        start = <uint8_t *>((<uintptr_t>base + alignment - 1) & ~(alignment - 1))
        if start > base:
            munmap(base, start - base)
        munmap(start + ((size + PAGE - 1) & ~<uint64_t>(PAGE - 1)),
               alignment - (start - base))
        self._base = start
        self.size = size
        if not reserved:
            self.map(0, size, fd, shared, dump)

    def map(self, uint64_t offset, uint64_t size, int fd, bint shared, bint dump, *,
            uint64_t file_offset=0):
        """Back [offset, offset+size) of a reserved range; raises OSError."""
        cdef int flags = (MAP_SHARED if shared else MAP_PRIVATE) | MAP_FIXED
        cdef uint8_t *start = self._base + offset
        if offset > self.size or size > self.size - offset:
            raise ValueError("the part does not lie inside the mapping")
        if self._count == MAX_PARTS:
            raise ValueError("too many parts")
        if fd < 0:
            # Overcommitted like any process's heap; -mem-prealloc is how a user opts out.  A
            # file's pages are reserved, because hugetlbfs would kill who touches one too many.
            flags |= MAP_ANONYMOUS | MAP_NORESERVE
        if mmap(start, size, PROT_READ | PROT_WRITE, flags, fd, <long>file_offset) == MAP_FAILED:
            raise os_error(errno)
        if not dump and madvise(start, size, MADV_DONTDUMP) != 0:
            raise os_error(errno)
        if fd < 0 and not shared:
            # Advice only: a kernel without transparent huge pages says EINVAL and loses nothing.
            madvise(start, size, MADV_HUGEPAGE)
        self._parts[self._count].start = offset
        self._parts[self._count].end = offset + size
        self._parts[self._count].shared = shared
        # Which of its pages hold something can be asked of the file only.
        self._parts[self._count].fd = os.dup(fd) if fd >= 0 else -1
        self._parts[self._count].file_offset = file_offset
        self._count += 1

    cdef void discard(self, uint8_t *start, uint64_t length) noexcept nogil:
        """Give whole pages back to the host; their content is lost."""
        cdef uint64_t offset = start - self._base, piece
        cdef int i
        for i in range(self._count):
            if offset >= self._parts[i].end:
                continue
            piece = min(length, self._parts[i].end - offset)
            # Of a shared file the page itself has to go, not just this mapping of it.  Huge pages
            # of hugetlbfs cannot be given back in parts; then the host keeps them.
            madvise(self._base + offset, piece,
                    MADV_REMOVE if self._parts[i].shared else MADV_DONTNEED)
            offset += piece
            length -= piece
            if length == 0:
                return

    def bind(self, uint64_t offset, uint64_t size, str policy not None, nodes not None):
        """Take pages of a part from the host's `nodes` by `policy`, a key of POLICIES.

        Raises OSError.
        """
        cdef unsigned long mask[MASK_WORDS]
        cdef int mode = POLICIES[policy]
        cdef long result
        memset(mask, 0, sizeof(mask))
        for node in nodes:
            if not 0 <= node < MASK_WORDS * 64:
                raise ValueError("no such node")
            mask[<int>node // 64] |= 1UL << (<int>node % 64)
        if mode == MPOL_PREFERRED and len(nodes) > 1:
            # Of several nodes the older policy would only use the first.
            result = self._mbind(offset, size, MPOL_PREFERRED_MANY, mask)
            if result == 0:
                return
        if self._mbind(offset, size, mode, mask) != 0:
            raise os_error(errno)

    cdef long _mbind(self, uint64_t offset, uint64_t size, int mode, unsigned long *mask):
        return syscall(SYS_mbind, self._base + offset, size, mode, mask, <long>(MASK_WORDS * 64 + 1),
                       MPOL_MF_STRICT | MPOL_MF_MOVE)

    def populate(self, uint64_t offset, uint64_t size):
        """Have the host allocate this range now, without the GIL; raises OSError."""
        cdef uint8_t *start
        cdef volatile uint8_t *page
        cdef uint64_t done = 0
        cdef int result, error
        if offset > self.size or size > self.size - offset:
            raise ValueError("the range does not lie inside the mapping")
        start = self._base + offset
        with nogil:
            result = madvise(start, size, MADV_POPULATE_WRITE)
            error = errno
            if result != 0 and error == EINVAL:
                # Before Linux 5.14: touch each page, keeping what it holds.
                while done < size:
                    page = start + done
                    __atomic_fetch_or(page, 0, __ATOMIC_RELAXED)
                    done += PAGE
                result = 0
        if result != 0:
            raise os_error(error)

    def __dealloc__(self):
        cdef int i
        for i in range(self._count):
            if self._parts[i].fd >= 0:
                close(self._parts[i].fd)
        if self._base != NULL:
            munmap(self._base, self.size)

    @property
    def address(self):
        """Host virtual address of the first byte."""
        return <uintptr_t>self._base

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self._base, <Py_ssize_t>self.size, 0, flags)
