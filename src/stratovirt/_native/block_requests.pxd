from libc.stdint cimport uint8_t, uint32_t, uint64_t
from stratovirt._native.block_pending cimport Pending, PendingTable
from stratovirt._native.block_queue cimport BlockQueue
from stratovirt._native.disk cimport Disk
from stratovirt._native.uring cimport Uring
from stratovirt._native.virtqueue cimport Chain, iovec

cdef enum Outcome:
    BROKEN
    DONE
    STARTED
    REFUSED   # by io_uring: to be done here and now

cdef class BlockRequests:
    cdef Disk _disk
    cdef bint _writeback
    cdef uint8_t _serial[20]
    cdef Uring uring
    cdef object _rings
    cdef PendingTable _pending
    cdef bint _reads_here        # the file system cannot say whether a read would wait
    cdef readonly uint64_t reads
    cdef readonly uint64_t writes
    cdef readonly uint64_t flushes
    cdef readonly uint64_t read_bytes
    cdef readonly uint64_t written_bytes
    cdef bint is_idle(self) noexcept nogil
    cdef bint is_full(self) noexcept nogil
    cdef Outcome serve(self, BlockQueue queue, Chain *chain, uint32_t *written) noexcept nogil
    cdef bint reap(self) noexcept nogil
    cdef int _for_ranges(self, Chain *chain, bint zero) noexcept nogil
    cdef Outcome _transfer(self, BlockQueue queue, Chain *chain, uint64_t sector, bint is_write,
                           uint8_t *status_byte, int *status) noexcept nogil
    cdef void _count_transfer(self, bint is_write, uint64_t size) noexcept nogil
    cdef Outcome _start(self, BlockQueue queue, Chain *chain, uint64_t sector, const iovec *iov,
                        uint32_t count, uint64_t size, bint is_write,
                        uint8_t *status) noexcept nogil
    cdef bint _start_flush(self, BlockQueue queue, Chain *chain, uint8_t *status) noexcept nogil
    cdef void _continue(self, Pending *request, int result) noexcept nogil
    cdef void _finish(self, Pending *request, int status) noexcept nogil
