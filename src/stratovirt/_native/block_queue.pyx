"""A queue of a disk: its ring and doorbell, and how many completions share one interrupt."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from posix.unistd cimport write

from stratovirt._native.interrupt cimport Notifier
from stratovirt._native.virtqueue cimport Virtqueue

cdef enum:
    PATIENCE = 1024         # looks for one more request, 25 us on a CPU of 2020
    TOGETHER = 16           # completions that wait for one interrupt at most


cdef class BlockQueue:
    """One queue with its doorbell and its interrupt."""

    def __cinit__(self, Virtqueue ring not None, int kick_fd, Notifier notifier not None):
        self.ring = ring
        self.kick_fd = kick_fd
        self.notifier = notifier

    cdef void complete(self, uint16_t head, uint32_t written) noexcept nogil:
        self.ring.push(head, written)
        self._completed += 1

    cdef void interrupt(self) noexcept nogil:
        """Tell the driver of what is complete, once for all of it and if it wants to know."""
        if self._completed:
            self._completed = 0
            if self.ring.should_notify():
                self.notifier.notify()

    cdef bint await_more(self) noexcept nogil:
        """Whether another request comes so soon that one interrupt does for it too.

        A driver that hands its requests over one by one pays two exits for each if the device is
        fast: the kick and the interrupt.  While it has fewer under way than it had before, a moment
        is given to it; if nothing comes, it is expected to have fewer.
        """
        cdef uint16_t depth = self.ring.under_way()
        self._depth = max(self._depth, depth)
        if depth == self._depth or not 0 < self._completed < TOGETHER:
            return False
        if self.ring.await_more(PATIENCE):
            return True
        self._depth = depth + (self._depth - depth) // 2
        return False

    cdef void kick(self) noexcept nogil:
        """Have the loop look at this queue again."""
        cdef uint64_t one = 1
        write(self.kick_fd, &one, sizeof(one))
