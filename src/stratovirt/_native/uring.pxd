from libc.stdint cimport uint64_t
from stratovirt._native.virtqueue cimport iovec

cdef extern from "liburing.h" nogil:
    struct io_uring:
        pass
    struct io_uring_sqe:
        pass
    struct io_uring_cqe:
        int res


cdef class Uring:
    cdef io_uring _ring
    cdef bint _is_open
    cdef readonly int event_fd

    cdef bint read(self, int fd, const iovec *iov, unsigned int count, uint64_t offset,
                   uint64_t cookie) noexcept nogil
    cdef bint write(self, int fd, const iovec *iov, unsigned int count, uint64_t offset,
                    uint64_t cookie) noexcept nogil
    cdef bint datasync(self, int fd, uint64_t cookie) noexcept nogil
    cdef void submit(self) noexcept nogil
    cdef bint take(self, uint64_t *cookie, int *result) noexcept nogil
    cdef io_uring_sqe *_entry(self) noexcept nogil
    cdef _try(self, str what, int result)
