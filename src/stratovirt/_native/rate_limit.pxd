from libc.stdint cimport uint64_t

cdef extern from *:
    """typedef unsigned __int128 wide_t;"""
    ctypedef unsigned long long wide_t   # 128 bits in C

cdef class RateLimit:
    cdef uint64_t _count         # so many
    cdef uint64_t _period_ns     # in so long
    cdef uint64_t _burst         # and so many at once
    cdef wide_t _spent           # what is not earned back yet; one unit is a period's length of it
    cdef uint64_t _last_ns       # when that was counted
    cdef void _earn(self, uint64_t now_ns) noexcept nogil
    cdef void _forgive(self, wide_t cost) noexcept nogil
    cdef bint take(self, uint64_t now_ns, uint64_t count) noexcept nogil
    cdef uint64_t when(self, uint64_t now_ns, uint64_t count) noexcept nogil
    cdef void give_back(self, uint64_t count) noexcept nogil
