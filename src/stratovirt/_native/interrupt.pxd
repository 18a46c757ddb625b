from libc.stdint cimport uint32_t
from stratovirt._native.dispatch cimport NativeOps

cdef class InterruptStatus:
    cdef uint32_t bits
    cdef uint32_t held   # follows bits: the native region reads both

cdef class Notifier:
    cdef readonly InterruptStatus status
    cdef uint32_t _bits
    cdef readonly int fd
    cdef void notify(self) noexcept nogil
