"""virtio-blk requests (virtio 1.2, section 5.2.6), served in a thread that never needs the GIL.

One engine serves all queues of one device.  It sleeps in poll(2) on the queues' doorbells and a
stop eventfd; a request is checked against the disk, done with preadv or pwritev straight into
guest RAM, and completed.  A host error is the request's I/O error and nobody else's; a broken
ring stops the engine and is reported through the failure eventfd.
"""

from libc.errno cimport EINTR, EOPNOTSUPP, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.unistd cimport fdatasync, read, write

from stratovirt._native.interrupt cimport Notifier
from stratovirt._native.trace cimport TraceEvent
from stratovirt._native.virtqueue cimport RING_BAD_REQUEST, Chain, Virtqueue, iovec

import os

from stratovirt.runtime import trace_events

cdef extern from "sys/uio.h" nogil:
    ssize_t preadv(int fd, const iovec *iov, int count, long offset)
    ssize_t pwritev(int fd, const iovec *iov, int count, long offset)

cdef extern from "poll.h" nogil:
    cdef struct pollfd:
        int fd
        short events
        short revents
    int POLLIN
    int poll(pollfd *fds, unsigned long count, int timeout)

cdef extern from "fcntl.h" nogil:
    int fallocate(int fd, int mode, long offset, long length)
    int FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE

cdef extern from "linux/virtio_blk.h" nogil:
    int VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID
    int VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES
    uint32_t VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP
    int VIRTIO_BLK_ID_BYTES
    int VIRTIO_BLK_S_OK, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_UNSUPP

cdef extern from "time.h" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *now)
    int CLOCK_MONOTONIC

cdef enum:
    NS_PER_MS = 1000000
    BURSTS_PER_SECOND = 10  # a limited disk may run ahead by this part of a second's requests
    MAX_QUEUES = 32        # num-queues of the guidebook
    HEADER_BYTES = 16      # struct virtio_blk_outhdr
    SECTOR_BYTES = 512
    RANGE_BYTES = 16       # struct virtio_blk_discard_write_zeroes
    ZERO_CHUNK = 65536     # written at once where the file system cannot zero a range itself
    DISCARD_RANGES = 16    # ranges of one discard or write-zeroes request


cdef TraceEvent block_request = trace_events.BLOCK_REQUEST
cdef TraceEvent block_complete = trace_events.BLOCK_COMPLETE


cdef struct Header:
    uint32_t type
    uint32_t reserved
    uint64_t sector


cdef struct Range:
    uint64_t sector
    uint32_t count
    uint32_t flags


cdef uint8_t zeroes[ZERO_CHUNK]

MOST_RANGES = DISCARD_RANGES


def can_punch_holes(int fd, uint64_t size):
    """Whether ranges of the file can be given back; asks about the part behind its end."""
    return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, <long>size, 4096) == 0


cdef class BlockQueue:
    """One queue with its doorbell and its interrupt."""

    cdef readonly Virtqueue ring
    cdef readonly int kick_fd
    cdef readonly Notifier notifier
    cdef BlockQueue _next

    def __cinit__(self, Virtqueue ring not None, int kick_fd, Notifier notifier not None):
        self.ring = ring
        self.kick_fd = kick_fd
        self.notifier = notifier


cdef class BlockEngine:
    """Serves the queues of one disk until told to stop.

    `fd` is the image, `direct_align` zero or the alignment (bytes) that fd's O_DIRECT demands;
    requests that do not meet it go through `buffered_fd`.  `capacity` is in 512-byte sectors.
    Without `writeback` each write is made durable before it completes.  `iops` is the most
    requests a second over time, 0 for no limit.
    """

    cdef int _fd
    cdef int _buffered_fd
    cdef uint32_t _align
    cdef uint64_t _capacity
    cdef bint _readonly
    cdef bint _writeback
    cdef uint8_t _serial[20]
    cdef BlockQueue _first
    cdef int _count
    cdef int _stop_fd
    cdef int _failure_fd
    cdef Chain *_chain
    cdef uint64_t _interval_ns   # between two requests of a limited disk; 0 without a limit
    cdef uint64_t _ahead_ns      # how far it may run ahead
    cdef uint64_t _due_ns        # when the next request would come at an even pace
    cdef bint _is_held           # something waits for its time
    cdef readonly uint64_t reads
    cdef readonly uint64_t writes
    cdef readonly uint64_t flushes
    cdef readonly uint64_t read_bytes
    cdef readonly uint64_t written_bytes

    def __cinit__(self, list queues not None, *, int fd, int buffered_fd, uint32_t direct_align,
                  uint64_t capacity, bint readonly, bint writeback, bytes serial not None,
                  int failure_fd, uint64_t iops=0):
        if not 0 < len(queues) <= MAX_QUEUES:
            raise ValueError(f"a disk has 1 to {MAX_QUEUES} queues")
        self._chain = <Chain *>calloc(1, sizeof(Chain))
        if self._chain == NULL:
            raise MemoryError()
        for queue, following in zip(queues, [*queues[1:], None]):
            (<BlockQueue?>queue)._next = following
        self._first = queues[0]
        self._count = len(queues)
        self._fd = fd
        self._buffered_fd = buffered_fd
        self._align = direct_align
        self._capacity = capacity
        self._readonly = readonly
        self._writeback = writeback
        self._failure_fd = failure_fd
        if iops:
            self._interval_ns = 1000 * NS_PER_MS // iops
            self._ahead_ns = max(1000 * NS_PER_MS // BURSTS_PER_SECOND, self._interval_ns)
        memset(self._serial, 0, sizeof(self._serial))
        memcpy(self._serial, <char *>serial, min(len(serial), VIRTIO_BLK_ID_BYTES))
        self._stop_fd = -1
        self._stop_fd = os.eventfd(0, os.EFD_CLOEXEC)

    def __dealloc__(self):
        free(self._chain)
        if self._stop_fd >= 0:
            os.close(self._stop_fd)

    def request_stop(self):
        """Make `run` return once the requests it has taken are complete."""
        os.eventfd_write(self._stop_fd, 1)

    def run(self):
        """Serve until stopped or a ring breaks; called in the engine's own thread."""
        cdef int result
        with nogil:
            result = self._loop()
        if result < 0:
            os.eventfd_write(self._failure_fd, 1)

    cdef int _loop(self) noexcept nogil:
        cdef pollfd fds[MAX_QUEUES + 1]
        cdef uint64_t count
        cdef int i
        fds[0].fd = self._stop_fd
        fds[0].events = POLLIN
        self._watch(self._first, &fds[1])
        # Requests may have been offered before the engine was there to hear the doorbell.
        for i in range(self._count):
            fds[i + 1].revents = POLLIN
        fds[0].revents = 0
        while True:
            if self._serve_kicked(self._first, &fds[1]) < 0:
                return -1
            if fds[0].revents:
                read(self._stop_fd, &count, sizeof(count))
                return 0
            while poll(fds, self._count + 1, self._wait_ms()) < 0 and errno == EINTR:
                pass
            if self._is_held:
                for i in range(self._count):
                    fds[i + 1].revents |= POLLIN
                self._is_held = False

    cdef uint64_t _now_ns(self) noexcept nogil:
        cdef timespec now
        clock_gettime(CLOCK_MONOTONIC, &now)
        return <uint64_t>now.tv_sec * 1000 * NS_PER_MS + <uint64_t>now.tv_nsec

    cdef bint _admits(self) noexcept nogil:
        """Whether the limit allows another request now; it is counted if so."""
        cdef uint64_t now
        if self._interval_ns == 0:
            return True
        now = self._now_ns()
        if self._due_ns < now:
            self._due_ns = now
        if self._due_ns - now >= self._ahead_ns:
            self._is_held = True
            return False
        self._due_ns += self._interval_ns
        return True

    cdef int _wait_ms(self) noexcept nogil:
        """How long to sleep: for ever, or until a request that was held may go."""
        cdef uint64_t now
        if not self._is_held:
            return -1
        now = self._now_ns() + self._ahead_ns
        return 0 if self._due_ns < now else <int>((self._due_ns - now) // NS_PER_MS) + 1

    cdef void _watch(self, BlockQueue queue, pollfd *fd) noexcept nogil:
        fd.fd = queue.kick_fd
        fd.events = POLLIN
        if queue._next is not None:
            self._watch(queue._next, fd + 1)

    cdef int _serve_kicked(self, BlockQueue queue, pollfd *fd) noexcept nogil:
        # Queues are a linked list because a list of Python objects needs the GIL to walk.
        cdef uint64_t count
        if fd.revents:
            read(queue.kick_fd, &count, sizeof(count))
            if self._serve(queue) < 0:
                return -1
        if queue._next is not None:
            return self._serve_kicked(queue._next, fd + 1)
        return 0

    cdef int _serve(self, BlockQueue queue) noexcept nogil:
        """Take all that the driver offers; -1 when the ring is broken."""
        cdef int got
        cdef uint32_t written
        cdef bint completed = False
        while True:
            queue.ring.disable_kicks()
            while True:
                if not self._admits():
                    # What is offered stays in the ring; the clock wakes the engine for it.
                    got = 0
                    break
                got = queue.ring.pop(self._chain)
                if got <= 0:
                    self._due_ns -= self._interval_ns
                    break
                if not self._serve_request(&written):
                    queue.ring.error = RING_BAD_REQUEST
                    got = -1
                    break
                queue.ring.push(self._chain.head, written)
                completed = True
            if completed and queue.ring.should_notify():
                queue.notifier.notify()
            completed = False
            if got < 0:
                return -1
            if self._is_held:
                return 0
            if not queue.ring.enable_kicks():
                return 0

    cdef bint _serve_request(self, uint32_t *written) noexcept nogil:
        """Do the request in self._chain; False when it has no room for header or status."""
        cdef Chain *chain = self._chain
        cdef Header header
        cdef iovec *data
        cdef uint32_t count
        cdef uint64_t size
        cdef uint8_t *status_byte
        cdef iovec *last
        cdef int status
        if chain.readable_bytes < HEADER_BYTES or chain.writable_bytes < 1:
            return False
        # The status is the chain's last byte, wherever the driver put the boundaries.
        last = &chain.iov[chain.readable + chain.writable - 1]
        last.iov_len -= 1
        status_byte = <uint8_t *>last.iov_base + last.iov_len
        chain.writable_bytes -= 1
        _take(chain.iov, chain.readable, <uint8_t *>&header, HEADER_BYTES)
        written[0] = 0
        if block_request.enabled:
            block_request.report(header.type, header.sector,
                                 chain.readable_bytes + chain.writable_bytes - HEADER_BYTES, 0)
        if header.type == <uint32_t>VIRTIO_BLK_T_IN:
            data = chain.iov + chain.readable
            count = chain.writable
            size = chain.writable_bytes
            status = self._transfer(header.sector, data, count, size, False)
            if status == VIRTIO_BLK_S_OK:
                written[0] = <uint32_t>size
                self.reads += 1
                self.read_bytes += size
        elif header.type == <uint32_t>VIRTIO_BLK_T_OUT:
            size = chain.readable_bytes - HEADER_BYTES
            status = self._transfer(header.sector, chain.iov, chain.readable, size, True)
            if status == VIRTIO_BLK_S_OK:
                self.writes += 1
                self.written_bytes += size
        elif header.type == <uint32_t>VIRTIO_BLK_T_FLUSH:
            status = self._flush()
            self.flushes += 1
        elif header.type == <uint32_t>VIRTIO_BLK_T_DISCARD:
            status = self._for_ranges(chain.readable_bytes - HEADER_BYTES, False)
        elif header.type == <uint32_t>VIRTIO_BLK_T_WRITE_ZEROES:
            status = self._for_ranges(chain.readable_bytes - HEADER_BYTES, True)
        elif header.type == <uint32_t>VIRTIO_BLK_T_GET_ID:
            size = min(chain.writable_bytes, <uint64_t>VIRTIO_BLK_ID_BYTES)
            _give(chain.iov + chain.readable, chain.writable, self._serial, size)
            written[0] = <uint32_t>size
            status = VIRTIO_BLK_S_OK
        else:
            status = VIRTIO_BLK_S_UNSUPP
        status_byte[0] = <uint8_t>status
        if block_complete.enabled:
            block_complete.report(header.type, status, 0, 0)
        written[0] += 1
        return True

    cdef int _flush(self) noexcept nogil:
        # Both descriptors are the same file, so one sync covers what went through either.
        return VIRTIO_BLK_S_OK if fdatasync(self._fd) == 0 else VIRTIO_BLK_S_IOERR

    cdef int _for_ranges(self, uint64_t size, bint zero) noexcept nogil:
        """Discard, or write zeroes to, the ranges in self._chain (section 5.2.6)."""
        cdef Range part
        cdef int status
        if self._readonly:
            return VIRTIO_BLK_S_IOERR
        if size == 0 or size % RANGE_BYTES or size > RANGE_BYTES * DISCARD_RANGES:
            return VIRTIO_BLK_S_UNSUPP
        while size:
            _take(self._chain.iov, self._chain.readable, <uint8_t *>&part, RANGE_BYTES)
            size -= RANGE_BYTES
            if part.flags & ~(VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP if zero else 0):
                return VIRTIO_BLK_S_UNSUPP
            if part.sector > self._capacity or part.count > self._capacity - part.sector:
                return VIRTIO_BLK_S_IOERR
            if part.count == 0:
                continue
            status = self._zero(&part) if zero else self._discard(&part)
            if status != VIRTIO_BLK_S_OK:
                return status
        return self._flush() if not self._writeback else VIRTIO_BLK_S_OK

    cdef int _discard(self, Range *part) noexcept nogil:
        return self._allocate(FALLOC_FL_PUNCH_HOLE, part)

    cdef int _zero(self, Range *part) noexcept nogil:
        cdef uint64_t offset = part.sector * SECTOR_BYTES
        cdef uint64_t size = <uint64_t>part.count * SECTOR_BYTES
        cdef bint unmap = part.flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0
        cdef int status = self._allocate(
            FALLOC_FL_PUNCH_HOLE if unmap else FALLOC_FL_ZERO_RANGE, part)
        cdef iovec piece
        cdef ssize_t done
        if status != VIRTIO_BLK_S_UNSUPP:
            return status
        while size:
            piece.iov_base = zeroes
            piece.iov_len = min(size, <uint64_t>ZERO_CHUNK)
            done = pwritev(self._buffered_fd, &piece, 1, offset)
            if done < 0 and errno == EINTR:
                continue
            if done <= 0:
                return VIRTIO_BLK_S_IOERR
            offset += done
            size -= done
        return VIRTIO_BLK_S_OK

    cdef int _allocate(self, int mode, Range *part) noexcept nogil:
        cdef int result
        while True:
            result = fallocate(self._fd, mode | FALLOC_FL_KEEP_SIZE,
                               part.sector * SECTOR_BYTES, <long>part.count * SECTOR_BYTES)
            if result == 0:
                return VIRTIO_BLK_S_OK
            if errno != EINTR:
                return VIRTIO_BLK_S_UNSUPP if errno == EOPNOTSUPP else VIRTIO_BLK_S_IOERR

    cdef int _transfer(self, uint64_t sector, iovec *iov, uint32_t count, uint64_t size,
                       bint is_write) noexcept nogil:
        cdef uint64_t sectors = size // SECTOR_BYTES
        cdef uint64_t offset
        cdef int fd = self._fd
        cdef ssize_t done
        if is_write and self._readonly:
            return VIRTIO_BLK_S_IOERR
        if size % SECTOR_BYTES or sector > self._capacity or sectors > self._capacity - sector:
            return VIRTIO_BLK_S_IOERR
        if size == 0:
            return VIRTIO_BLK_S_OK
        offset = sector * SECTOR_BYTES
        if self._align and not _aligned(iov, count, offset, self._align):
            fd = self._buffered_fd
        while size:
            while count and iov.iov_len == 0:
                iov += 1
                count -= 1
            if is_write:
                done = pwritev(fd, iov, <int>count, offset)
            else:
                done = preadv(fd, iov, <int>count, offset)
            if done < 0:
                if errno == EINTR:
                    continue
                return VIRTIO_BLK_S_IOERR
            if done == 0:
                return VIRTIO_BLK_S_IOERR
            size -= done
            offset += done
            # What is left after a short transfer may have lost its alignment.
            if size and self._align:
                fd = self._buffered_fd
            _advance(&iov, &count, done)
        if is_write and not self._writeback:
            return self._flush()
        return VIRTIO_BLK_S_OK


cdef bint _aligned(iovec *iov, uint32_t count, uint64_t offset, uint32_t align) noexcept nogil:
    cdef uint32_t i
    cdef uint64_t bits = offset
    for i in range(count):
        bits |= <uint64_t>iov[i].iov_base | iov[i].iov_len
    return bits & (align - 1) == 0


cdef void _advance(iovec **iov, uint32_t *count, uint64_t size) noexcept nogil:
    while size:
        if size < iov[0].iov_len:
            iov[0].iov_base = <uint8_t *>iov[0].iov_base + size
            iov[0].iov_len -= size
            return
        size -= iov[0].iov_len
        iov[0] += 1
        count[0] -= 1


cdef void _take(iovec *iov, uint32_t count, uint8_t *out, uint64_t size) noexcept nogil:
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


cdef void _give(iovec *iov, uint32_t count, const uint8_t *source, uint64_t size) noexcept nogil:
    cdef uint64_t piece
    cdef uint32_t i
    for i in range(count):
        piece = min(iov[i].iov_len, size)
        memcpy(iov[i].iov_base, source, piece)
        source += piece
        size -= piece
        if size == 0:
            return
