# The bits of a log of written pages: bit n of 64-bit word n // 64 is page n of 4 KiB, counted from
# guest physical address 0, as vhost counts them.  Several threads and processes set bits at once.
from libc.stdint cimport uint64_t
from stratovirt._native.atomics cimport fetch_and64, fetch_or64, load64

cdef enum:
    PAGE_SHIFT = 12


cdef inline uint64_t word_mask(uint64_t word, uint64_t first, uint64_t end) noexcept nogil:
    """The bits of `word` for pages from `first` to before `end`; it has at least one of them."""
    cdef uint64_t mask = <uint64_t>-1
    if word == first >> 6:
        mask &= <uint64_t>-1 << (first & 63)
    if word == (end - 1) >> 6:
        mask &= <uint64_t>-1 >> (63 - ((end - 1) & 63))
    return mask


cdef inline void log_bytes(uint64_t *log, uint64_t gpa, uint64_t size) noexcept nogil:
    """Set the bits of the pages that [gpa, gpa+size), not empty, touches."""
    cdef uint64_t first = gpa >> PAGE_SHIFT
    cdef uint64_t end = ((gpa + size - 1) >> PAGE_SHIFT) + 1
    cdef uint64_t word
    for word in range(first >> 6, ((end - 1) >> 6) + 1):
        # Also where the bit is set already: the barrier puts the write before any later collection.
        fetch_or64(&log[word], word_mask(word, first, end))


cdef inline void log_bitmap(uint64_t *log, uint64_t gpa, const uint64_t *bits,
                            uint64_t words) noexcept nogil:
    """Set the bits that are set in `bits`, whose bit 0 is the page at `gpa`."""
    cdef uint64_t page = gpa >> PAGE_SHIFT
    cdef uint64_t to = page >> 6, i
    cdef unsigned int shift = page & 63
    for i in range(words):
        if bits[i] == 0:
            continue
        fetch_or64(&log[to + i], bits[i] << shift)
        if shift and bits[i] >> (64 - shift):
            fetch_or64(&log[to + i + 1], bits[i] >> (64 - shift))


cdef inline void take_logged(uint64_t *log, uint64_t gpa, uint64_t size,
                             uint64_t *out) noexcept nogil:
    """Move the bits of the pages of [gpa, gpa+size) to `out`, zeroed, from its bit 0 on."""
    cdef uint64_t first = gpa >> PAGE_SHIFT
    cdef uint64_t end = ((gpa + size - 1) >> PAGE_SHIFT) + 1
    cdef uint64_t word, mask, bits, at
    for word in range(first >> 6, ((end - 1) >> 6) + 1):
        if load64(&log[word]) == 0:
            continue
        mask = word_mask(word, first, end)
        bits = fetch_and64(&log[word], ~mask) & mask
        if word == first >> 6:
            out[0] |= bits >> (first & 63)
            continue
        at = (word << 6) - first
        out[at >> 6] |= bits << (at & 63)
        if at & 63 and bits >> (64 - (at & 63)):
            out[(at >> 6) + 1] |= bits >> (64 - (at & 63))
