from libc.stdint cimport uint64_t

cdef class BoardTime:
    cdef bint _is_moved_by_hand
    cdef uint64_t _now_ns
    cdef list _alarms
    cdef uint64_t now_ns(self) noexcept nogil
    cdef void set_alarm(self, int fd, uint64_t at_ns) noexcept nogil
