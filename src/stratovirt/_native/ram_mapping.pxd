from libc.stdint cimport uint8_t, uint64_t

cdef enum:
    MAX_PARTS = 128  # of different backing: one for each NUMA node

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
