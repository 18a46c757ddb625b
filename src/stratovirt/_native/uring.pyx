"""io_uring: requests queued and completed without a system call each."""

from libc.errno cimport EINTR, EPERM
from libc.stdint cimport uint64_t
from libc.string cimport memset
from posix.unistd cimport close

from stratovirt._native.kernel cimport call_error
from stratovirt._native.virtqueue cimport iovec

import os

cdef extern from "liburing.h" nogil:
    struct io_uring_restriction:
        unsigned short opcode
        unsigned char sqe_op
    unsigned int IORING_SETUP_R_DISABLED
    unsigned short IORING_RESTRICTION_SQE_OP
    unsigned char IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_FSYNC
    int io_uring_queue_init(unsigned int entries, io_uring *ring, unsigned int flags)
    int io_uring_register_restrictions(io_uring *ring, io_uring_restriction *restrictions,
                                       unsigned int count)
    int io_uring_enable_rings(io_uring *ring)
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


class SpareRings:
    """The rings of a process that no engine uses."""

    def __init__(self):
        self._spare = []
        self._may_make = True

    def __len__(self):
        """How many there are."""
        return len(self._spare)

    def take(self, entries):
        """A ring that nobody uses; raises OSError when there is none and none can be made."""
        if self._spare:
            return self._spare.pop()
        if not self._may_make:
            raise OSError(EPERM, "io_uring_queue_init: no spare ring is left")
        return Uring(entries)

    def give_back(self, Uring ring not None):
        """Return the ring for reuse; no request is in flight in it."""
        self._spare.append(ring)

    def make_no_more(self, count, entries):
        """From now on there are `count` spare rings and no new ones: the process is locked down."""
        self._may_make = False
        try:
            while len(self._spare) < count:
                self._spare.append(Uring(entries))
        except OSError:
            # Without io_uring the engines do one request after the other.
            return


cdef class Uring:
    """One ring of `entries` requests; `event_fd` becomes readable when some are complete.

    It takes reads, writes and fdatasync and nothing else: io_uring can open files and sockets as
    well, out of sight of a seccomp filter.  Raises OSError where the kernel has no io_uring or
    forbids it.
    """

    def __cinit__(self, unsigned int entries):
        self.event_fd = -1
        self._try("queue_init", io_uring_queue_init(entries, &self._ring, IORING_SETUP_R_DISABLED))
        self._is_open = True
        self.event_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._try("register_eventfd", io_uring_register_eventfd(&self._ring, self.event_fd))
        cdef io_uring_restriction allowed[3]
        memset(allowed, 0, sizeof(allowed))
        allowed[0].sqe_op, allowed[1].sqe_op = IORING_OP_READV, IORING_OP_WRITEV
        allowed[2].sqe_op = IORING_OP_FSYNC
        for i in range(3):
            allowed[i].opcode = IORING_RESTRICTION_SQE_OP
        self._try("register_restrictions",
                  io_uring_register_restrictions(&self._ring, allowed, 3))
        self._try("enable_rings", io_uring_enable_rings(&self._ring))

    cdef _try(self, str what, int result):
        if result < 0:
            raise call_error(-result, f"io_uring_{what}")

    def __dealloc__(self):
        if self._is_open:
            io_uring_queue_exit(&self._ring)
        if self.event_fd >= 0:
            close(self.event_fd)

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
