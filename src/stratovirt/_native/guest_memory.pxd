from libc.stdint cimport uint8_t, uint64_t
from stratovirt._native.atomics cimport look_up

cdef enum:
    MAX_BLOCKS = 32  # RAM pieces of one machine: one between two gaps of the board

cdef struct Block:
    uint64_t gpa
    uint64_t size
    uint8_t *hva
    void *mapping

cdef class GuestMemory:
    cdef public bint is_pinned
    cdef readonly list writers
    cdef readonly list log_gaps # why some writes since the log was started are not in it
    cdef uint64_t *_log         # NULL while nobody wants to know which pages are written
    cdef uint64_t *_log_area    # the bits, which stay mapped: a writer may be late
    cdef readonly int log_fd
    cdef Block _blocks[MAX_BLOCKS]
    cdef int _count
    cdef list _mappings
    cdef uint8_t *translate(self, uint64_t gpa, uint64_t size) noexcept nogil
    cdef uint8_t *_checked(self, uint64_t gpa, uint64_t size) except NULL
    cdef void _discard(self, uint8_t *start, uint64_t length) noexcept nogil
    cdef uint64_t _log_bytes(self) noexcept nogil
    cdef void _log_write(self, uint64_t *log, const uint8_t *hva, uint64_t size) noexcept nogil


cdef inline void wrote(GuestMemory memory, const void *hva, uint64_t size) noexcept nogil:
    """Every writer's call, after each write to guest memory at `hva`."""
    cdef uint64_t *log = look_up(&memory._log)
    if log != NULL:
        memory._log_write(log, <const uint8_t *>hva, size)
