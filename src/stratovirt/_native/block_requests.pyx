"""Requests of virtio-blk (virtio 1.2, section 5.2.6): checked against the disk, done or started.

A transfer goes to the kernel with the guest's own buffers, unless it can be done faster at once.
Where the kernel has no io_uring, requests are done one after the other.  A host error is the
request's I/O error and nobody else's.
"""

from libc.errno cimport EOPNOTSUPP, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from stratovirt._native.block_pending cimport (
    AGAIN, COMPLETE, IN_FLIGHT, Pending, Step, claim, free_table, give_back, hand_over,
    keep_pieces, make_table, take_result)
from stratovirt._native.block_queue cimport BlockQueue
from stratovirt._native.disk cimport SECTOR_BYTES, Disk
from stratovirt._native.guest_memory cimport wrote
from stratovirt._native.iovecs cimport filled, give, take
from stratovirt._native.trace cimport TraceEvent
from stratovirt._native.virtqueue cimport Chain, iovec

from stratovirt._native import trace_events

cdef extern from "sys/uio.h" nogil:
    ssize_t preadv2(int fd, const iovec *iov, int count, long offset, int flags)
    int RWF_NOWAIT

cdef extern from "linux/virtio_blk.h" nogil:
    int VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID
    int VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES
    int VIRTIO_BLK_ID_BYTES
    int VIRTIO_BLK_S_OK, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_UNSUPP

cdef enum:
    HEADER_BYTES = 16       # struct virtio_blk_outhdr
    LARGE = 65536           # bytes of a request worth another thread's help

RING_ENTRIES = IN_FLIGHT

cdef TraceEvent block_request = trace_events.BLOCK_REQUEST
cdef TraceEvent block_complete = trace_events.BLOCK_COMPLETE


cdef struct Header:
    uint32_t type
    uint32_t reserved
    uint64_t sector


cdef class BlockRequests:
    """The requests of one disk, those in flight among them.

    Without `writeback` each write is made durable before it completes.  io_uring is used if there
    are `rings` for it.
    """

    def __cinit__(self, Disk disk not None, *, bint writeback, bytes serial not None, object rings):
        self._disk = disk
        self._writeback = writeback
        memset(self._serial, 0, sizeof(self._serial))
        memcpy(self._serial, <char *>serial, min(len(serial), VIRTIO_BLK_ID_BYTES))
        self._rings = rings
        if rings is not None and disk.capacity:
            self._prepare_uring()

    def _prepare_uring(self):
        try:
            self.uring = self._rings.take(IN_FLIGHT)
        except OSError:
            # An old kernel, or one whose owner forbids it: one request after the other, then.
            return
        make_table(&self._pending)

    def release(self):
        """Give the ring back; no request is served any more."""
        if self.uring is not None and self.is_idle():
            self._rings.give_back(self.uring)
        self.uring = None

    def __dealloc__(self):
        free_table(&self._pending)

    cdef bint is_idle(self) noexcept nogil:
        """Whether nothing is in flight."""
        return self._pending.in_flight == 0

    cdef bint is_full(self) noexcept nogil:
        """Whether another request has to wait for one in flight."""
        return self.uring is not None and self._pending.free == NULL

    cdef Outcome serve(self, BlockQueue queue, Chain *chain, uint32_t *written) noexcept nogil:
        """Do or start the request in `chain`; BROKEN without room for header or status."""
        cdef Header header
        cdef uint8_t *status_byte
        cdef iovec *last
        cdef uint64_t size
        cdef int status
        cdef Outcome outcome = DONE
        if chain.readable_bytes < HEADER_BYTES or chain.writable_bytes < 1:
            return BROKEN
        # The status is the chain's last byte, wherever the driver put the boundaries.
        last = &chain.iov[chain.readable + chain.writable - 1]
        last.iov_len -= 1
        status_byte = <uint8_t *>last.iov_base + last.iov_len
        chain.writable_bytes -= 1
        take(chain.iov, chain.readable, <uint8_t *>&header, HEADER_BYTES)
        chain.readable_bytes -= HEADER_BYTES
        written[0] = 0
        if block_request.enabled:
            block_request.report(header.type, header.sector,
                                 chain.readable_bytes + chain.writable_bytes, 0)
        if header.type == <uint32_t>VIRTIO_BLK_T_IN:
            outcome = self._transfer(queue, chain, header.sector, False, status_byte,
                                     &status)
            if status == VIRTIO_BLK_S_OK:
                written[0] = <uint32_t>chain.writable_bytes
        elif header.type == <uint32_t>VIRTIO_BLK_T_OUT:
            outcome = self._transfer(queue, chain, header.sector, True, status_byte, &status)
        elif header.type == <uint32_t>VIRTIO_BLK_T_FLUSH:
            self.flushes += 1
            if self._start_flush(queue, chain, status_byte):
                return STARTED
            status = self._disk.flush()
        elif header.type == <uint32_t>VIRTIO_BLK_T_DISCARD:
            status = self._for_ranges(chain, False)
        elif header.type == <uint32_t>VIRTIO_BLK_T_WRITE_ZEROES:
            status = self._for_ranges(chain, True)
        elif header.type == <uint32_t>VIRTIO_BLK_T_GET_ID:
            size = min(chain.writable_bytes, <uint64_t>VIRTIO_BLK_ID_BYTES)
            give(queue.ring._memory, chain.iov + chain.readable, chain.writable, self._serial, size)
            written[0] = <uint32_t>size
            status = VIRTIO_BLK_S_OK
        else:
            status = VIRTIO_BLK_S_UNSUPP
        if outcome == STARTED:
            return STARTED
        status_byte[0] = <uint8_t>status
        wrote(queue.ring._memory, status_byte, 1)
        if block_complete.enabled:
            block_complete.report(header.type, status, 0, 0)
        written[0] += 1
        return DONE

    cdef int _for_ranges(self, Chain *chain, bint zero) noexcept nogil:
        cdef int status = self._disk.for_ranges(chain, chain.readable_bytes, zero)
        if status == VIRTIO_BLK_S_OK and not self._writeback:
            return self._disk.flush()
        return status

    cdef Outcome _transfer(self, BlockQueue queue, Chain *chain, uint64_t sector, bint is_write,
                           uint8_t *status_byte, int *status) noexcept nogil:
        """Start the read or write in `chain`, or do it: then `status` is its result."""
        cdef iovec *data = &chain.iov[0 if is_write else chain.readable]
        cdef uint32_t count = chain.readable if is_write else chain.writable
        cdef uint64_t size = chain.readable_bytes if is_write else chain.writable_bytes
        cdef Outcome outcome
        status[0] = self._disk.check_range(sector, size, is_write)
        if status[0] != VIRTIO_BLK_S_OK:
            return DONE
        if size:
            outcome = self._start(queue, chain, sector, data, count, size, is_write, status_byte)
            if outcome == STARTED:
                return STARTED
            if outcome == REFUSED:
                status[0] = self._disk.transfer(
                    queue.ring._memory, sector, data, count, size, is_write)
                if is_write and not self._writeback and status[0] == VIRTIO_BLK_S_OK:
                    status[0] = self._disk.flush()
        if status[0] == VIRTIO_BLK_S_OK:
            self._count_transfer(is_write, size)
        return DONE

    cdef void _count_transfer(self, bint is_write, uint64_t size) noexcept nogil:
        if is_write:
            self.writes += 1
            self.written_bytes += size
        else:
            self.reads += 1
            self.read_bytes += size

    cdef Outcome _start(self, BlockQueue queue, Chain *chain, uint64_t sector, const iovec *iov,
                        uint32_t count, uint64_t size, bint is_write,
                        uint8_t *status) noexcept nogil:
        """Hand a transfer to the kernel, or do it if the page cache has it: that is faster."""
        cdef Pending *request
        cdef uint64_t offset = sector * SECTOR_BYTES
        cdef ssize_t done
        cdef bint shared
        cdef int fd
        if self.uring is None:
            return REFUSED
        fd = self._disk.fd_for(iov, count, offset)
        # A large copy makes the next request wait: if there is one, the kernel's workers help.
        shared = size >= LARGE and (self._pending.in_flight or queue.ring.has_more())
        if fd == self._disk.buffered_fd and not shared:
            # What is written goes to the page cache, which does not make anybody wait for a disk.
            if is_write or self._reads_here:
                return REFUSED
            done = preadv2(fd, iov, <int>count, offset, RWF_NOWAIT)
            if done == <ssize_t>size:
                filled(queue.ring._memory, iov, count, size)
                return DONE
            # What a short read has left here is written again, by whichever way is next.
            if done < 0 and errno == EOPNOTSUPP:
                # A file system in memory: there is nothing to wait for.
                self._reads_here = True
                return REFUSED
        request = claim(&self._pending, <void *>queue, chain.head, status)
        if request == NULL:
            return REFUSED
        request.is_write = is_write
        request.size = request.left = size
        request.offset = offset
        request.fd = fd
        if keep_pieces(request, iov, count) \
                and hand_over(&self._pending, request, self.uring, self._disk):
            return STARTED
        give_back(&self._pending, request)
        return REFUSED

    cdef bint _start_flush(self, BlockQueue queue, Chain *chain, uint8_t *status) noexcept nogil:
        cdef Pending *request
        if self.uring is None:
            return False
        request = claim(&self._pending, <void *>queue, chain.head, status)
        if request == NULL:
            return False
        request.is_sync = True
        if hand_over(&self._pending, request, self.uring, self._disk):
            return True
        give_back(&self._pending, request)
        return False

    cdef bint reap(self) noexcept nogil:
        """Go on with what the kernel has completed; whether there was anything."""
        cdef uint64_t cookie
        cdef int result
        cdef bint any = False
        while self.uring.take(&cookie, &result):
            any = True
            self._continue(&self._pending.pool[cookie], result)
        if any:
            self.uring.submit()
        return any

    cdef void _continue(self, Pending *request, int result) noexcept nogil:
        cdef Step step
        if not request.is_sync and not request.is_write:
            # What a failed read has left is anybody's guess.
            filled((<BlockQueue>request.queue).ring._memory, request.iov, request.count,
                   <uint64_t>result if result > 0 else request.left)
        step = take_result(request, result, self._disk, self._writeback)
        if step == AGAIN and hand_over(&self._pending, request, self.uring, self._disk):
            return
        self._finish(request, VIRTIO_BLK_S_OK if step == COMPLETE else VIRTIO_BLK_S_IOERR)

    cdef void _finish(self, Pending *request, int status) noexcept nogil:
        """Give a request back to the driver; the interrupt follows for all of them."""
        cdef uint32_t written = 1
        request.status[0] = <uint8_t>status
        wrote((<BlockQueue>request.queue).ring._memory, request.status, 1)
        if status == VIRTIO_BLK_S_OK and request.size:
            self._count_transfer(request.is_write, request.size)
            if not request.is_write:
                written += <uint32_t>request.size
        if block_complete.enabled:
            block_complete.report(request.is_write, status, 0, 0)
        (<BlockQueue>request.queue).complete(request.head, written)
        give_back(&self._pending, request)
