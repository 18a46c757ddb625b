from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from stratovirt._native.guest_memory cimport GuestMemory

cdef extern from "sys/uio.h" nogil:
    cdef struct iovec:
        void *iov_base
        size_t iov_len

cdef extern from "linux/virtio_ring.h" nogil:
    cdef struct vring_desc:
        uint64_t addr
        uint32_t len
        uint16_t flags
        uint16_t next
    cdef struct vring_used_elem:
        uint32_t id
        uint32_t len
    int VRING_DESC_F_NEXT, VRING_DESC_F_WRITE, VRING_DESC_F_INDIRECT
    int VRING_AVAIL_F_NO_INTERRUPT, VRING_USED_F_NO_NOTIFY

cdef enum:
    MAX_SEGMENTS = 1024   # pieces of one chain: what one readv takes, and the largest ring

cdef enum RingError:
    RING_OK = 0
    RING_BAD_AVAIL_INDEX
    RING_BAD_HEAD
    RING_BAD_ADDRESS
    RING_CHAIN_TOO_LONG
    RING_BAD_INDIRECT
    RING_BAD_ORDER
    RING_BAD_NEXT
    RING_BAD_REQUEST

cdef struct Chain:
    uint16_t head
    uint32_t readable        # pieces the device reads; they come first
    uint32_t writable
    uint64_t readable_bytes
    uint64_t writable_bytes
    iovec iov[MAX_SEGMENTS]

cdef class Virtqueue:
    cdef GuestMemory _memory
    cdef readonly uint16_t size
    cdef readonly uint64_t used_gpa
    cdef vring_desc *_desc
    cdef uint16_t *_avail     # flags, idx, ring[size], used_event
    cdef uint16_t *_used      # flags, idx, then elements
    cdef uint16_t _last_avail
    cdef uint16_t _used_idx
    cdef uint16_t _signalled
    cdef bint _signalled_valid
    cdef bint _event_idx
    cdef int error
    cdef bint has_more(self) noexcept nogil
    cdef bint await_more(self, uint32_t looks) noexcept nogil
    cdef int pop(self, Chain *chain) noexcept nogil
    cdef uint16_t under_way(self) noexcept nogil
    cdef void push(self, uint16_t head, uint32_t written) noexcept nogil
    cdef bint should_notify(self) noexcept nogil
    cdef void disable_kicks(self) noexcept nogil
    cdef bint enable_kicks(self) noexcept nogil
    cdef int _add(self, Chain *chain, uint64_t addr, uint32_t length, bint writable) noexcept nogil
    cdef int _walk(self, Chain *chain, vring_desc *table, uint32_t table_size, uint16_t first, bint indirect) noexcept nogil
