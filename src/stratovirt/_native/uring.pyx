"""io_uring: requests queued and completed without a system call each."""

from libc.errno cimport EINTR
from libc.stdint cimport uint64_t

from stratovirt._native.virtqueue cimport iovec

import os

cdef extern from "liburing.h" nogil:
    int io_uring_queue_init(unsigned int entries, io_uring *ring, unsigned int flags)
    void io_uring_queue_exit(io_uring *ring)
    int io_uring_register_eventfd(io_uring *ring, int fd)
    io_uring_sqe *io_uring_get_sqe(io_uring *ring)
    int io_uring_submit(io_uring *ring)
    int io_uring_peek_cqe(io_uring *ring, io_uring_cqe **cqe)
    void io_uring_cqe_seen(io_uring *ring, io_uring_cqe *cqe)
    void io_uring_prep_readv(io_uring_sqe *sqe, int fd, const iovec *iov, unsigned int count,
                             uint64_t offset)
    void io_uring_prep_writev(io_uring_sqe *sqe, int fd, const iovec *iov, unsigned int count,
                              uint64_t offset)
    void io_uring_prep_fsync(io_uring_sqe *sqe, int fd, unsigned int flags)
    void io_uring_sqe_set_data64(io_uring_sqe *sqe, uint64_t cookie)
    uint64_t io_uring_cqe_get_data64(const io_uring_cqe *cqe)
    unsigned int IORING_FSYNC_DATASYNC


cdef class Uring:
    """One ring of `entries` requests; `event_fd` becomes readable when some are complete.

    Raises OSError where the kernel has no io_uring or forbids it.
    """

    def __cinit__(self, unsigned int entries):
        self.event_fd = -1
        cdef int result = io_uring_queue_init(entries, &self._ring, 0)
        if result < 0:
            raise OSError(-result, f"io_uring_queue_init: {os.strerror(-result)}")
        self._is_open = True
        self.event_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        result = io_uring_register_eventfd(&self._ring, self.event_fd)
        if result < 0:
            raise OSError(-result, f"io_uring_register_eventfd: {os.strerror(-result)}")

    def __dealloc__(self):
        if self._is_open:
            io_uring_queue_exit(&self._ring)
        if self.event_fd >= 0:
            os.close(self.event_fd)

    cdef io_uring_sqe *_entry(self) noexcept nogil:
        cdef io_uring_sqe *sqe = io_uring_get_sqe(&self._ring)
        if sqe == NULL:
            # The queue is full of what was not yet handed over.
            self.submit()
            sqe = io_uring_get_sqe(&self._ring)
        return sqe

    cdef bint read(self, int fd, const iovec *iov, unsigned int count, uint64_t offset,
                   uint64_t cookie) noexcept nogil:
        """Queue a readv; False when there is no room. `iov` must live until it completes."""
        cdef io_uring_sqe *sqe = self._entry()
        if sqe == NULL:
            return False
        io_uring_prep_readv(sqe, fd, iov, count, offset)
        io_uring_sqe_set_data64(sqe, cookie)
        return True

    cdef bint write(self, int fd, const iovec *iov, unsigned int count, uint64_t offset,
                    uint64_t cookie) noexcept nogil:
        """Queue a writev; False when there is no room. `iov` must live until it completes."""
        cdef io_uring_sqe *sqe = self._entry()
        if sqe == NULL:
            return False
        io_uring_prep_writev(sqe, fd, iov, count, offset)
        io_uring_sqe_set_data64(sqe, cookie)
        return True

    cdef bint datasync(self, int fd, uint64_t cookie) noexcept nogil:
        """Queue an fdatasync of what has completed; False when there is no room."""
        cdef io_uring_sqe *sqe = self._entry()
        if sqe == NULL:
            return False
        io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC)
        io_uring_sqe_set_data64(sqe, cookie)
        return True

    cdef void submit(self) noexcept nogil:
        """Hand over what is queued; what the kernel cannot take now stays queued."""
        while io_uring_submit(&self._ring) == -EINTR:
            pass

    cdef bint take(self, uint64_t *cookie, int *result) noexcept nogil:
        """The next completion: its cookie, and bytes or a negative errno; False without one."""
        cdef io_uring_cqe *cqe = NULL
        if io_uring_peek_cqe(&self._ring, &cqe) < 0 or cqe == NULL:
            return False
        cookie[0] = io_uring_cqe_get_data64(cqe)
        result[0] = cqe.res
        io_uring_cqe_seen(&self._ring, cqe)
        return True
