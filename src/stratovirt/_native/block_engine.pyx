"""virtio-blk requests (virtio 1.2, section 5.2.6), served in a thread that never needs the GIL.

One engine serves all queues of one device.  It sleeps in poll(2) on the queues' doorbells, its
io_uring and a stop eventfd; a request is checked against the disk, handed to the kernel with the
guest's own buffers, and given back when it is complete, many at a time and in any order.  Where
the kernel has no io_uring, requests are done one after the other.  A host error is the request's
I/O error and nobody else's; a broken ring stops the engine and is reported through the failure
eventfd, after what was in flight is complete.
"""

from libc.errno cimport EAGAIN, EINTR, EOPNOTSUPP, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset
from posix.unistd cimport fdatasync, read, write

from stratovirt._native.interrupt cimport Notifier
from stratovirt._native.trace cimport TraceEvent
from stratovirt._native.uring cimport Uring
from stratovirt._native.virtqueue cimport RING_BAD_REQUEST, Chain, Virtqueue, iovec

import os

from stratovirt.runtime import trace_events

cdef extern from "sys/uio.h" nogil:
    ssize_t preadv(int fd, const iovec *iov, int count, long offset)
    ssize_t pwritev(int fd, const iovec *iov, int count, long offset)
    ssize_t preadv2(int fd, const iovec *iov, int count, long offset, int flags)
    int RWF_NOWAIT

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
    IN_FLIGHT = 256         # requests in the kernel's hands at once
    INLINE_PIECES = 32      # pieces of a request that need no memory of their own
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


cdef struct Pending:
    Pending *next         # of those that are free
    int queue             # index of the queue it came from
    uint16_t head
    bint is_write
    bint is_sync          # an fdatasync, or a write's that was asked to be durable
    uint8_t *status
    uint64_t size
    uint64_t left
    uint64_t offset
    int fd
    iovec *iov
    uint32_t count
    iovec *heap
    iovec pieces[INLINE_PIECES]


cdef enum Outcome:
    BROKEN
    DONE
    STARTED
    REFUSED   # by io_uring: to be done here and now


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
    cdef int _index
    cdef bint _completed  # something was given back since the last interrupt

    def __cinit__(self, Virtqueue ring not None, int kick_fd, Notifier notifier not None):
        self.ring = ring
        self.kick_fd = kick_fd
        self.notifier = notifier


cdef class BlockEngine:
    """Serves the queues of one disk until told to stop.

    `fd` is the image, `direct_align` zero or the alignment (bytes) that fd's O_DIRECT demands;
    requests that do not meet it go through `buffered_fd`.  `capacity` is in 512-byte sectors.
    Without `writeback` each write is made durable before it completes.  `iops` is the most
    requests a second over time, 0 for no limit.  `uring` lets io_uring be used where there is one.
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
    cdef Uring _uring
    cdef Pending *_pool
    cdef Pending *_free
    cdef int _in_flight
    cdef bint _is_full           # something waits for one in flight to complete
    cdef bint _reads_here        # the file system cannot say whether a read would wait
    cdef readonly uint64_t reads
    cdef readonly uint64_t writes
    cdef readonly uint64_t flushes
    cdef readonly uint64_t read_bytes
    cdef readonly uint64_t written_bytes

    def __cinit__(self, list queues not None, *, int fd, int buffered_fd, uint32_t direct_align,
                  uint64_t capacity, bint readonly, bint writeback, bytes serial not None,
                  int failure_fd, uint64_t iops=0, bint uring=True):
        if not 0 < len(queues) <= MAX_QUEUES:
            raise ValueError(f"a disk has 1 to {MAX_QUEUES} queues")
        self._chain = <Chain *>calloc(1, sizeof(Chain))
        if self._chain == NULL:
            raise MemoryError()
        for index, (queue, following) in enumerate(zip(queues, [*queues[1:], None])):
            (<BlockQueue?>queue)._next = following
            (<BlockQueue>queue)._index = index
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
            self._ahead_ns = max(
                <uint64_t>(1000 * NS_PER_MS // BURSTS_PER_SECOND), self._interval_ns)
        memset(self._serial, 0, sizeof(self._serial))
        memcpy(self._serial, <char *>serial, min(len(serial), VIRTIO_BLK_ID_BYTES))
        self._stop_fd = -1
        self._stop_fd = os.eventfd(0, os.EFD_CLOEXEC)
        if uring:
            self._prepare_uring()

    def _prepare_uring(self):
        try:
            self._uring = Uring(IN_FLIGHT)
        except OSError:
            # An old kernel, or one whose owner forbids it: one request after the other, then.
            return
        self._pool = <Pending *>calloc(IN_FLIGHT, sizeof(Pending))
        if self._pool == NULL:
            raise MemoryError()
        for i in range(IN_FLIGHT):
            self._pool[i].next = self._free
            self._free = &self._pool[i]

    @property
    def is_asynchronous(self):
        """Whether requests go through io_uring."""
        return self._uring is not None

    def __dealloc__(self):
        free(self._pool)
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
        cdef pollfd fds[MAX_QUEUES + 2]
        cdef pollfd *uring = &fds[self._count + 1]
        cdef uint64_t count
        cdef int i
        cdef bint stopping = False, broken = False
        fds[0].fd, fds[0].events, fds[0].revents = self._stop_fd, POLLIN, 0
        self._watch(self._first, &fds[1])
        uring.fd, uring.events = -1, POLLIN
        if self._uring is not None:
            uring.fd = self._uring.event_fd
        # Requests may have been offered before the engine was there to hear the doorbell.
        for i in range(self._count):
            fds[i + 1].revents = POLLIN
        while True:
            if not stopping and not broken and self._serve_kicked(self._first, &fds[1]) < 0:
                broken = True
            if self._uring is not None:
                self._uring.submit()
                if self._reap() and self._is_full and not stopping and not broken:
                    self._is_full = False
                    for i in range(self._count):
                        fds[i + 1].revents = POLLIN
                    continue
            if fds[0].revents:
                read(self._stop_fd, &count, sizeof(count))
                stopping = True
            if stopping or broken:
                if self._in_flight == 0:
                    return -1 if broken else 0
                # Nothing new is taken: only what is in flight matters now.
                for i in range(self._count + 1):
                    fds[i].fd = -1
            while poll(fds, self._count + 2,
                       -1 if stopping or broken else self._wait_ms()) < 0 and errno == EINTR:
                pass
            if uring.revents:
                read(self._uring.event_fd, &count, sizeof(count))
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
        cdef Outcome outcome
        while True:
            queue.ring.disable_kicks()
            while True:
                if not self._admits():
                    # What is offered stays in the ring; the clock wakes the engine for it.
                    got = 0
                    break
                if self._uring is not None and self._free == NULL:
                    self._due_ns -= self._interval_ns
                    self._is_full = True
                    got = 0
                    break
                got = queue.ring.pop(self._chain)
                if got <= 0:
                    self._due_ns -= self._interval_ns
                    break
                outcome = self._serve_request(queue._index, &written)
                if outcome == BROKEN:
                    queue.ring.error = RING_BAD_REQUEST
                    got = -1
                    break
                if outcome == STARTED:
                    continue
                queue.ring.push(self._chain.head, written)
                completed = True
            if completed and queue.ring.should_notify():
                queue.notifier.notify()
            completed = False
            if got < 0:
                return -1
            if self._is_held or self._is_full:
                return 0
            if not queue.ring.enable_kicks():
                return 0

    cdef Outcome _serve_request(self, int queue, uint32_t *written) noexcept nogil:
        """Do or start the request in self._chain; BROKEN without room for header or status."""
        cdef Chain *chain = self._chain
        cdef Header header
        cdef iovec *data
        cdef uint32_t count
        cdef uint64_t size
        cdef uint8_t *status_byte
        cdef iovec *last
        cdef int status
        cdef Outcome outcome
        if chain.readable_bytes < HEADER_BYTES or chain.writable_bytes < 1:
            return BROKEN
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
            status = self._check_range(header.sector, size, False)
            if status == VIRTIO_BLK_S_OK and size:
                outcome = self._start(queue, header.sector, data, count, size, False, status_byte)
                if outcome == STARTED:
                    return STARTED
                if outcome == REFUSED:
                    status = self._transfer(header.sector, data, count, size, False)
            if status == VIRTIO_BLK_S_OK:
                written[0] = <uint32_t>size
                self.reads += 1
                self.read_bytes += size
        elif header.type == <uint32_t>VIRTIO_BLK_T_OUT:
            size = chain.readable_bytes - HEADER_BYTES
            status = self._check_range(header.sector, size, True)
            if status == VIRTIO_BLK_S_OK and size:
                outcome = self._start(queue, header.sector, chain.iov, chain.readable, size, True,
                                      status_byte)
                if outcome == STARTED:
                    return STARTED
                if outcome == REFUSED:
                    status = self._transfer(header.sector, chain.iov, chain.readable, size, True)
            if status == VIRTIO_BLK_S_OK:
                self.writes += 1
                self.written_bytes += size
        elif header.type == <uint32_t>VIRTIO_BLK_T_FLUSH:
            self.flushes += 1
            if self._start_flush(queue, status_byte):
                return STARTED
            status = self._flush()
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
        return DONE

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

    cdef int _check_range(self, uint64_t sector, uint64_t size, bint is_write) noexcept nogil:
        cdef uint64_t sectors = size // SECTOR_BYTES
        if is_write and self._readonly:
            return VIRTIO_BLK_S_IOERR
        if size % SECTOR_BYTES or sector > self._capacity or sectors > self._capacity - sector:
            return VIRTIO_BLK_S_IOERR
        return VIRTIO_BLK_S_OK

    cdef Pending *_take_pending(self, int queue, uint8_t *status) noexcept nogil:
        cdef Pending *request = self._free
        if self._uring is None or request == NULL:
            return NULL
        self._free = request.next
        self._in_flight += 1
        request.queue = queue
        request.head = self._chain.head
        request.status = status
        request.is_write = request.is_sync = False
        request.size = request.left = 0
        request.heap = NULL
        return request

    cdef Outcome _start(self, int queue, uint64_t sector, const iovec *iov, uint32_t count,
                        uint64_t size, bint is_write, uint8_t *status) noexcept nogil:
        """Hand a transfer to the kernel, or do it if the page cache has it: that is faster."""
        cdef Pending *request
        cdef uint64_t offset = sector * SECTOR_BYTES
        cdef int fd = self._fd
        if self._align and not _aligned(iov, count, offset, self._align):
            fd = self._buffered_fd
        if self._uring is None:
            return REFUSED
        if fd == self._buffered_fd:
            # What is written goes to the page cache, which does not make anybody wait for a disk.
            if is_write or self._reads_here:
                return REFUSED
            if preadv2(fd, iov, <int>count, offset, RWF_NOWAIT) == <ssize_t>size:
                return DONE
            if errno == EOPNOTSUPP:
                # A file system in memory: there is nothing to wait for.
                self._reads_here = True
                return REFUSED
        request = self._take_pending(queue, status)
        if request == NULL or not self._keep_pieces(request, iov, count):
            return REFUSED
        request.is_write = is_write
        request.size = request.left = size
        request.offset = offset
        request.fd = fd
        if self._hand_over(request):
            return STARTED
        self._give_back(request)
        return REFUSED

    cdef bint _keep_pieces(self, Pending *request, const iovec *iov, uint32_t count) noexcept nogil:
        cdef uint32_t i
        request.iov = request.pieces
        if count > INLINE_PIECES:
            request.heap = <iovec *>malloc(count * sizeof(iovec))
            if request.heap == NULL:
                self._give_back(request)
                return False
            request.iov = request.heap
        request.count = 0
        for i in range(count):
            if iov[i].iov_len:
                request.iov[request.count] = iov[i]
                request.count += 1
        return True

    cdef bint _start_flush(self, int queue, uint8_t *status) noexcept nogil:
        cdef Pending *request = self._take_pending(queue, status)
        if request == NULL:
            return False
        request.is_sync = True
        if self._hand_over(request):
            return True
        self._give_back(request)
        return False

    cdef bint _hand_over(self, Pending *request) noexcept nogil:
        cdef uint64_t cookie = <uint64_t>(request - self._pool)
        if request.is_sync:
            return self._uring.datasync(self._fd, cookie)
        if request.is_write:
            return self._uring.write(request.fd, request.iov, request.count, request.offset, cookie)
        return self._uring.read(request.fd, request.iov, request.count, request.offset, cookie)

    cdef bint _reap(self) noexcept nogil:
        """Go on with what the kernel has completed; whether there was anything."""
        cdef uint64_t cookie
        cdef int result
        cdef bint any = False
        while self._uring.take(&cookie, &result):
            any = True
            self._continue(&self._pool[cookie], result)
        if any:
            self._uring.submit()
            self._notify(self._first)
        return any

    cdef void _continue(self, Pending *request, int result) noexcept nogil:
        if result == -EINTR or result == -EAGAIN:
            pass
        elif request.is_sync:
            self._finish(request, VIRTIO_BLK_S_OK if result >= 0 else VIRTIO_BLK_S_IOERR)
            return
        elif result <= 0:
            self._finish(request, VIRTIO_BLK_S_IOERR)
            return
        else:
            request.left -= result
            request.offset += result
            if request.left:
                # What is left after a short transfer may have lost its alignment.
                _advance(&request.iov, &request.count, result)
                if self._align:
                    request.fd = self._buffered_fd
            elif request.is_write and not self._writeback:
                request.is_sync = True
            else:
                self._finish(request, VIRTIO_BLK_S_OK)
                return
        if not self._hand_over(request):
            self._finish(request, VIRTIO_BLK_S_IOERR)

    cdef void _finish(self, Pending *request, int status) noexcept nogil:
        """Give a request back to the driver; the interrupt follows for all of them."""
        cdef uint32_t written = 1
        request.status[0] = <uint8_t>status
        if status == VIRTIO_BLK_S_OK and request.size:
            if request.is_write:
                self.writes += 1
                self.written_bytes += request.size
            else:
                self.reads += 1
                self.read_bytes += request.size
                written += <uint32_t>request.size
        if block_complete.enabled:
            block_complete.report(request.is_write, status, 0, 0)
        self._push(self._first, request.queue, request.head, written)
        self._give_back(request)

    cdef void _give_back(self, Pending *request) noexcept nogil:
        free(request.heap)
        request.heap = NULL
        request.next = self._free
        self._free = request
        self._in_flight -= 1

    cdef void _push(self, BlockQueue queue, int index, uint16_t head,
                    uint32_t written) noexcept nogil:
        if index:
            self._push(queue._next, index - 1, head, written)
        else:
            queue.ring.push(head, written)
            queue._completed = True

    cdef void _notify(self, BlockQueue queue) noexcept nogil:
        if queue._completed:
            queue._completed = False
            if queue.ring.should_notify():
                queue.notifier.notify()
        if queue._next is not None:
            self._notify(queue._next)

    cdef int _transfer(self, uint64_t sector, iovec *iov, uint32_t count, uint64_t size,
                       bint is_write) noexcept nogil:
        """Do a transfer here and now."""
        cdef uint64_t offset
        cdef int fd = self._fd
        cdef ssize_t done
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


cdef bint _aligned(const iovec *iov, uint32_t count, uint64_t offset,
                   uint32_t align) noexcept nogil:
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
