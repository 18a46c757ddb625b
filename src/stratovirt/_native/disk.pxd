from libc.stdint cimport uint32_t, uint64_t
from stratovirt._native.guest_memory cimport GuestMemory
from stratovirt._native.virtqueue cimport Chain, iovec

cdef enum:
    SECTOR_BYTES = 512

cdef class Disk:
    cdef int fd
    cdef int buffered_fd
    cdef uint32_t align
    cdef uint64_t capacity
    cdef bint readonly
    cdef uint32_t block_size
    cdef int check_range(self, uint64_t sector, uint64_t size, bint is_write) noexcept nogil
    cdef int fd_for(self, const iovec *iov, uint32_t count, uint64_t offset) noexcept nogil
    cdef int transfer(self, GuestMemory memory, uint64_t sector, iovec *iov, uint32_t count,
                      uint64_t size, bint is_write) noexcept nogil
    cdef int flush(self) noexcept nogil
    cdef int for_ranges(self, Chain *chain, uint64_t size, bint zero) noexcept nogil
    cdef int _discard(self, uint64_t sector, uint32_t count) noexcept nogil
    cdef int _zero(self, uint64_t sector, uint32_t count, bint unmap) noexcept nogil
    cdef uint64_t _round_up(self, uint64_t offset) noexcept nogil
    cdef int _write_zeroes(self, uint64_t offset, uint64_t size) noexcept nogil
    cdef int _allocate(self, int mode, uint64_t offset, uint64_t size) noexcept nogil
