from libc.stdint cimport uint16_t, uint32_t
from stratovirt._native.interrupt cimport Notifier
from stratovirt._native.virtqueue cimport Virtqueue

cdef class BlockQueue:
    cdef readonly Virtqueue ring
    cdef readonly int kick_fd
    cdef readonly Notifier notifier
    cdef uint32_t _completed   # given back since the last interrupt
    cdef uint16_t _depth       # requests that the driver is expected to have under way
    cdef void complete(self, uint16_t head, uint32_t written) noexcept nogil
    cdef void interrupt(self) noexcept nogil
    cdef bint await_more(self) noexcept nogil
    cdef void kick(self) noexcept nogil
