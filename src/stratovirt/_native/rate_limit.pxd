from libc.stdint cimport uint64_t

cdef class Pace:
    cdef readonly int fd
    cdef uint64_t _interval_ns   # between two at an even pace
    cdef uint64_t _ahead_ns      # how far it may run ahead
    cdef uint64_t _due_ns        # when the next would come at an even pace
    cdef bint admits(self) noexcept nogil
    cdef void refund(self) noexcept nogil
