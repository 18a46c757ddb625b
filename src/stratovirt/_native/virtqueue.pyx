"""Split virtqueues (virtio 1.2, section 2.7), walked natively.

Everything in the rings is the guest's word: indices, addresses, lengths and flags are read once
and checked before use.  A ring that breaks a rule puts its error in `error`; the device is then
marked NEEDS_RESET by its owner and the queue is not touched again.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from stratovirt._native.atomics cimport (
    full_barrier, load_acquire16, look_up, relax_cpu, store_release16)
from stratovirt._native.guest_memory cimport GuestMemory, wrote

cdef enum:
    PAGE = 4096

RING_ERRORS = {
    RING_BAD_AVAIL_INDEX: "the available index moved further than the queue is long",
    RING_BAD_HEAD: "a chain starts outside the descriptor table",
    RING_BAD_ADDRESS: "a descriptor points outside guest RAM",
    RING_CHAIN_TOO_LONG: "a chain is longer than the queue, or loops",
    RING_BAD_INDIRECT: "an indirect table is malformed",
    RING_BAD_ORDER: "a device-readable descriptor follows a device-writable one",
    RING_BAD_NEXT: "a descriptor's next field points outside its table",
    RING_BAD_REQUEST: "a request is too short for its header and status",
}


class VirtqueueError(ValueError):
    """A driver set up or used a queue against the rules."""


cdef class Virtqueue:
    """One split ring of `size` entries with its three parts at guest physical addresses.

    Raises VirtqueueError when the size is no power of two up to 1024 or a part is misaligned or
    not in RAM.
    """

    def __cinit__(self, GuestMemory memory not None, unsigned int size,
                  uint64_t desc, uint64_t avail, uint64_t used, bint event_idx):
        if size == 0 or size > MAX_SEGMENTS or size & (size - 1):
            raise VirtqueueError(f"queue size {size} is not a power of two up to {MAX_SEGMENTS}")
        if desc & 15 or avail & 1 or used & 3:
            raise VirtqueueError("a part of the ring is not aligned")
        self._memory = memory
        self.size = <uint16_t>size
        self.used_gpa = used
        self._desc = <vring_desc *>memory.translate(desc, 16 * size)
        self._avail = <uint16_t *>memory.translate(avail, 6 + 2 * size)
        self._used = <uint16_t *>memory.translate(used, 6 + 8 * size)
        if self._desc == NULL or self._avail == NULL or self._used == NULL:
            raise VirtqueueError("a part of the ring is not in guest RAM")
        self._event_idx = event_idx

    @property
    def failure(self):
        """The driver's violation that broke the queue, or None."""
        return RING_ERRORS[self.error] if self.error else None

    @property
    def position(self):
        """(next available index to take, next used index to fill): what a snapshot keeps."""
        return self._last_avail, self._used_idx

    @position.setter
    def position(self, value):
        self._last_avail, self._used_idx = value
        self._signalled_valid = False

    @property
    def host_addresses(self):
        """Host virtual addresses of the descriptor table, available ring and used ring."""
        return <uint64_t>self._desc, <uint64_t>self._avail, <uint64_t>self._used

    @property
    def used_index(self):
        """The used index as the guest sees it, whoever has written it."""
        return load_acquire16(&self._used[1])

    def pop_chain(self):
        """The next chain as a DescriptorChain, or None when the driver offers nothing.

        Raises VirtqueueError when the ring is broken.
        """
        cdef DescriptorChain chain = DescriptorChain.__new__(DescriptorChain)
        cdef int got = self.pop(chain._chain)
        chain._memory = self._memory
        if got < 0:
            raise VirtqueueError(RING_ERRORS[self.error])
        return chain if got else None

    def unpop(self):
        """Put the chain taken last back: it is the next again."""
        self._last_avail -= 1

    def push_chain(self, DescriptorChain chain not None):
        """Give the chain back with what was written to it; whether to raise an interrupt."""
        self.push(chain._chain.head, <uint32_t>chain._written)
        return self.should_notify()

    def rearm(self):
        """Ask for a kick on the next chain; True when one is there already."""
        return self.enable_kicks()

    cdef int _add(self, Chain *chain, uint64_t addr, uint32_t length, bint writable) noexcept nogil:
        cdef uint8_t *hva
        cdef uint32_t count = chain.readable + chain.writable
        if count == MAX_SEGMENTS:
            return RING_CHAIN_TOO_LONG
        if not writable and chain.writable:
            return RING_BAD_ORDER
        hva = self._memory.translate(addr, length)
        if hva == NULL:
            return RING_BAD_ADDRESS
        chain.iov[count].iov_base = hva
        chain.iov[count].iov_len = length
        if writable:
            chain.writable += 1
            chain.writable_bytes += length
        else:
            chain.readable += 1
            chain.readable_bytes += length
        return RING_OK

    cdef int _walk(self, Chain *chain, vring_desc *table, uint32_t table_size, uint16_t first, bint indirect) noexcept nogil:
        cdef vring_desc desc
        cdef vring_desc *inner
        cdef uint32_t steps = 0
        cdef uint16_t index = first
        cdef int error
        while True:
            if index >= table_size:
                return RING_BAD_NEXT
            # A chain visits a table's entries at most once, so more steps than entries is a loop.
            if steps >= table_size:
                return RING_CHAIN_TOO_LONG
            steps += 1
            memcpy(&desc, &table[index], sizeof(desc))
            if desc.flags & VRING_DESC_F_INDIRECT:
                if indirect or desc.flags & VRING_DESC_F_NEXT:
                    return RING_BAD_INDIRECT
                if desc.len == 0 or desc.len & 15 or desc.len > 16 * MAX_SEGMENTS:
                    return RING_BAD_INDIRECT
                inner = <vring_desc *>self._memory.translate(desc.addr, desc.len)
                if inner == NULL:
                    return RING_BAD_INDIRECT
                return self._walk(chain, inner, desc.len >> 4, 0, True)
            if desc.len:
                error = self._add(chain, desc.addr, desc.len, (desc.flags & VRING_DESC_F_WRITE) != 0)
                if error:
                    return error
            if not desc.flags & VRING_DESC_F_NEXT:
                return RING_OK
            index = desc.next

    cdef int pop(self, Chain *chain) noexcept nogil:
        """1 with the next chain, 0 when there is none, -1 when the ring is broken."""
        cdef uint16_t available, head
        if self.error:
            return -1
        available = load_acquire16(&self._avail[1])
        if available == self._last_avail:
            return 0
        if <uint16_t>(available - self._last_avail) > self.size:
            self.error = RING_BAD_AVAIL_INDEX
            return -1
        head = self._avail[2 + (self._last_avail & (self.size - 1))]
        if head >= self.size:
            self.error = RING_BAD_HEAD
            return -1
        chain.head = head
        chain.readable = chain.writable = 0
        chain.readable_bytes = chain.writable_bytes = 0
        self.error = self._walk(chain, self._desc, self.size, head, False)
        if self.error:
            return -1
        self._last_avail += 1
        return 1

    cdef bint has_more(self) noexcept nogil:
        """Whether the driver offers another chain."""
        return load_acquire16(&self._avail[1]) != self._last_avail

    cdef bint await_more(self, uint32_t looks) noexcept nogil:
        """Whether the driver offers another chain before `looks` looks, microseconds in all."""
        cdef uint32_t i
        for i in range(looks):
            if self.has_more():
                return True
            relax_cpu()
        return False

    cdef uint16_t under_way(self) noexcept nogil:
        """Chains that the driver has offered and not taken back, as far as its event index tells."""
        if not self._event_idx:
            return 1
        return min(<uint16_t>(self._last_avail - self._avail[2 + self.size]), self.size)

    cdef void push(self, uint16_t head, uint32_t written) noexcept nogil:
        cdef vring_used_elem *elements = <vring_used_elem *>(self._used + 2)
        cdef vring_used_elem *element = &elements[self._used_idx & (self.size - 1)]
        cdef uint64_t *log
        element.id = head
        element.len = written
        self._used_idx += 1
        store_release16(&self._used[1], self._used_idx)
        log = look_up(&self._memory._log)
        if log != NULL:
            self._memory._log_write(log, <uint8_t *>element, sizeof(vring_used_elem))
            self._memory._log_write(log, <uint8_t *>&self._used[1], sizeof(uint16_t))

    cdef bint should_notify(self) noexcept nogil:
        """Whether the driver wants an interrupt for what was pushed since the last one."""
        cdef uint16_t event, old
        cdef bint valid
        # The used index must be visible before the driver's wish is read (section 2.7.10).
        full_barrier()
        if not self._event_idx:
            return not self._avail[0] & VRING_AVAIL_F_NO_INTERRUPT
        event = self._avail[2 + self.size]
        old = self._signalled
        valid = self._signalled_valid
        self._signalled = self._used_idx
        self._signalled_valid = True
        return not valid or (
            <uint16_t>(self._used_idx - event - 1) < <uint16_t>(self._used_idx - old)
        )

    cdef void disable_kicks(self) noexcept nogil:
        if not self._event_idx:
            self._used[0] = VRING_USED_F_NO_NOTIFY
            wrote(self._memory, self._used, 2)

    cdef bint enable_kicks(self) noexcept nogil:
        """Ask for a kick on the next chain; True when one arrived meanwhile."""
        cdef uint16_t *avail_event = self._used + 2 + 4 * self.size
        if self._event_idx:
            avail_event[0] = self._last_avail
            wrote(self._memory, avail_event, 2)
        else:
            self._used[0] = 0
            wrote(self._memory, self._used, 2)
        full_barrier()
        return load_acquire16(&self._avail[1]) != self._last_avail


cdef class DescriptorChain:
    """One chain for devices that work in Python: read what the driver sent, write an answer."""

    cdef Chain *_chain
    cdef GuestMemory _memory
    cdef uint64_t _read
    cdef uint64_t _written

    def __cinit__(self):
        self._chain = <Chain *>malloc(sizeof(Chain))
        if self._chain == NULL:
            raise MemoryError()

    def __dealloc__(self):
        free(self._chain)

    @property
    def head(self):
        """Index of the chain's first descriptor."""
        return self._chain.head

    @property
    def readable_len(self):
        """Bytes the driver sent that have not been read yet."""
        return self._chain.readable_bytes - self._read

    @property
    def writable_len(self):
        """Bytes that can still be written."""
        return self._chain.writable_bytes - self._written

    @property
    def moved(self):
        """Bytes that were read, skipped and written so far."""
        return self._read + self._written

    def skip(self, uint64_t size):
        """Pass over `size` bytes from the driver, or all that are left."""
        self._read += min(size, self._chain.readable_bytes - self._read)

    cdef uint64_t _copy(self, uint32_t first, uint32_t count, uint64_t skip, uint8_t *data,
                        uint64_t size, bint to_guest) noexcept nogil:
        cdef uint64_t done = 0, piece, offset
        cdef uint32_t i
        for i in range(first, first + count):
            if skip >= self._chain.iov[i].iov_len:
                skip -= self._chain.iov[i].iov_len
                continue
            offset = skip
            skip = 0
            piece = min(self._chain.iov[i].iov_len - offset, size - done)
            if to_guest:
                memcpy(<uint8_t *>self._chain.iov[i].iov_base + offset, data + done, piece)
                wrote(self._memory, <uint8_t *>self._chain.iov[i].iov_base + offset, piece)
            else:
                memcpy(data + done, <uint8_t *>self._chain.iov[i].iov_base + offset, piece)
            done += piece
            if done == size:
                break
        return done

    def read(self, uint64_t size):
        """The next `size` bytes from the driver, fewer at the end of the chain."""
        cdef uint64_t count = min(size, self._chain.readable_bytes - self._read)
        cdef bytes data = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>count)
        if count:
            # Nobody else has the new object yet.
            self._copy(0, self._chain.readable, self._read, <uint8_t *><char *>data, count, False)
            self._read += count
        return data

    def write(self, data not None):
        """Append to the answer; returns how many bytes found room."""
        cdef Py_buffer view
        cdef uint64_t count
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            count = min(<uint64_t>view.len, self._chain.writable_bytes - self._written)
            if count:
                self._copy(self._chain.readable, self._chain.writable, self._written,
                           <uint8_t *>view.buf, count, True)
                self._written += count
            return count
        finally:
            PyBuffer_Release(&view)

    def discard(self, GuestMemory memory not None, uint64_t most):
        """Give the whole pages of the parts that may be written back to the host.

        Their content is lost.  At most `most` bytes; returns how many.
        """
        cdef uintptr_t start, end
        cdef uint64_t done = 0
        cdef uint32_t i
        if memory.is_pinned:
            return 0
        with nogil:
            for i in range(self._chain.readable, self._chain.readable + self._chain.writable):
                start = <uintptr_t>self._chain.iov[i].iov_base
                end = (start + self._chain.iov[i].iov_len) & ~<uintptr_t>(PAGE - 1)
                start = (start + PAGE - 1) & ~<uintptr_t>(PAGE - 1)
                if start >= end:
                    continue
                end = start + min(<uint64_t>(end - start), most - done)
                memory._discard(<uint8_t *>start, end - start)
                done += end - start
                if done == most:
                    break
        return done
