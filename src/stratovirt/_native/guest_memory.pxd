from libc.stdint cimport uint8_t, uint64_t

cdef enum:
    MAX_BLOCKS = 32  # RAM pieces of one machine; boards use two, NUMA one a node and gap

cdef struct Block:
    uint64_t gpa
    uint64_t size
    uint8_t *hva
    bint shared

cdef class RamMapping:
    cdef uint8_t *_base
    cdef readonly uint64_t size
    cdef readonly bint shared
    cdef Py_ssize_t _shape[1]

cdef class GuestMemory:
    cdef Block _blocks[MAX_BLOCKS]
    cdef int _count
    cdef list _mappings
    cdef uint8_t *translate(self, uint64_t gpa, uint64_t size) noexcept nogil
    cdef uint8_t *_checked(self, uint64_t gpa, uint64_t size) except NULL
    cdef void _discard(self, uint8_t *start, uint64_t length) noexcept nogil
