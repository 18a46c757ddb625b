from libc.stdint cimport uint8_t, uint64_t

cdef enum:
    MAX_BLOCKS = 32  # RAM pieces of one machine: one between two gaps of the board
    MAX_PARTS = 128  # of different backing: one for each NUMA node

cdef struct Block:
    uint64_t gpa
    uint64_t size
    uint8_t *hva
    void *mapping

cdef struct Part:
    uint64_t start, end      # offsets; it starts where the one before ends
    bint shared
    int fd                   # the file behind it, -1 for anonymous memory
    uint64_t file_offset

cdef class RamMapping:
    cdef uint8_t *_base
    cdef readonly uint64_t size
    cdef Part _parts[MAX_PARTS]
    cdef int _count
    cdef void discard(self, uint8_t *start, uint64_t length) noexcept nogil
    cdef long _mbind(self, uint64_t offset, uint64_t size, int mode, unsigned long *mask)

cdef class GuestMemory:
    cdef public bint is_pinned
    cdef Block _blocks[MAX_BLOCKS]
    cdef int _count
    cdef list _mappings
    cdef uint8_t *translate(self, uint64_t gpa, uint64_t size) noexcept nogil
    cdef uint8_t *_checked(self, uint64_t gpa, uint64_t size) except NULL
    cdef void _discard(self, uint8_t *start, uint64_t length) noexcept nogil
