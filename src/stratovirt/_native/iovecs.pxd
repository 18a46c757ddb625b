# Lists of buffers: the pieces of a request, moved along as bytes are taken or given.
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from stratovirt._native.atomics cimport look_up
from stratovirt._native.guest_memory cimport GuestMemory, wrote
from stratovirt._native.virtqueue cimport iovec


cdef inline bint is_aligned(const iovec *iov, uint32_t count, uint64_t offset,
                            uint32_t align) noexcept nogil:
    """Whether O_DIRECT takes these buffers at this offset."""
    cdef uint32_t i
    cdef uint64_t bits = offset
    for i in range(count):
        bits |= <uint64_t>iov[i].iov_base | iov[i].iov_len
    return bits & (align - 1) == 0


cdef inline void advance(iovec **iov, uint32_t *count, uint64_t size) noexcept nogil:
    """Leave out the first `size` bytes."""
    while size:
        if size < iov[0].iov_len:
            iov[0].iov_base = <uint8_t *>iov[0].iov_base + size
            iov[0].iov_len -= size
            return
        size -= iov[0].iov_len
        iov[0] += 1
        count[0] -= 1


cdef inline void take(iovec *iov, uint32_t count, uint8_t *out, uint64_t size) noexcept nogil:
    """Move `size` bytes out of the front of the pieces, which shrink by as much."""
    cdef uint64_t piece
    cdef uint32_t i
    for i in range(count):
        piece = min(iov[i].iov_len, size)
        memcpy(out, iov[i].iov_base, piece)
        iov[i].iov_base = <uint8_t *>iov[i].iov_base + piece
        iov[i].iov_len -= piece
        out += piece
        size -= piece
        if size == 0:
            return


cdef inline void filled(GuestMemory memory, const iovec *iov, uint32_t count,
                        uint64_t size) noexcept nogil:
    """The kernel wrote the first `size` bytes of the pieces."""
    cdef uint32_t i
    if look_up(&memory._log) == NULL:
        return
    for i in range(count):
        if size == 0:
            return
        wrote(memory, iov[i].iov_base, min(<uint64_t>iov[i].iov_len, size))
        size -= min(<uint64_t>iov[i].iov_len, size)


cdef inline void give(GuestMemory memory, iovec *iov, uint32_t count, const uint8_t *source,
                      uint64_t size) noexcept nogil:
    """Copy `size` bytes into the pieces."""
    cdef uint64_t piece
    cdef uint32_t i
    for i in range(count):
        piece = min(iov[i].iov_len, size)
        memcpy(iov[i].iov_base, source, piece)
        wrote(memory, iov[i].iov_base, piece)
        source += piece
        size -= piece
        if size == 0:
            return
