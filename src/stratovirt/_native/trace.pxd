from libc.stdint cimport uint64_t


cdef class TraceEvent:
    cdef readonly str name
    cdef readonly str help
    cdef readonly dict arguments
    cdef public bint enabled
    cdef str _format
    cdef bytes _c_format_bytes
    cdef const char *_c_format

    cdef void report(self, uint64_t a, uint64_t b, uint64_t c, uint64_t d) noexcept nogil
