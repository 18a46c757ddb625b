"""virtio-blk requests (virtio 1.2, section 5.2.6), served without the GIL.

One engine serves all queues of one device.  A request is checked against the disk, handed to the
kernel with the guest's own buffers, and given back when it is complete, many at a time and in any
order.  Where the kernel has no io_uring, requests are done one after the other.  A host error is
the request's I/O error and nobody else's; a broken ring stops the engine and is reported through
the failure eventfd.
"""

from libc.errno cimport EAGAIN, EINTR, EOPNOTSUPP, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset
from posix.unistd cimport write

from stratovirt._native.board_time cimport BoardTime
from stratovirt._native.disk cimport SECTOR_BYTES, Disk
from stratovirt._native.interrupt cimport Notifier
from stratovirt._native.io_loop cimport EPOLLET, EPOLLIN, Engine, Watch, ready_t
from stratovirt._native.guest_memory cimport GuestMemory, wrote
from stratovirt._native.iovecs cimport advance, filled, give, take
from stratovirt._native.kernel cimport failed
from stratovirt._native.rate_limit cimport RateLimit
from stratovirt._native.trace cimport TraceEvent
from stratovirt._native.uring cimport Uring
from stratovirt._native.virtqueue cimport RING_BAD_REQUEST, Chain, Virtqueue, iovec

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
    IN_FLIGHT = 256         # requests in the kernel's hands at once
    INLINE_PIECES = 32      # pieces of a request that need no memory of their own
    MAX_QUEUES = 32         # num-queues of the guidebook
    HEADER_BYTES = 16       # struct virtio_blk_outhdr
    LARGE = 65536           # bytes of a request worth another thread's help
    NS_PER_SECOND = 1000000000
    BURSTS_PER_SECOND = 10  # a limited disk may run ahead by this part of a second's worth
    BATCH = 256             # requests of one queue before others have their turn
    PATIENCE = 1024         # looks for one more request, 25 us on a CPU of 2020
    TOGETHER = 16           # completions that wait for one interrupt at most

RING_ENTRIES = IN_FLIGHT

cdef TraceEvent block_request = trace_events.BLOCK_REQUEST
cdef TraceEvent block_complete = trace_events.BLOCK_COMPLETE


cdef struct Header:
    uint32_t type
    uint32_t reserved
    uint64_t sector


cdef struct Pending:
    Pending *next         # of those that are free
    void *queue           # the BlockQueue it came from
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


cdef class BlockQueue:
    """One queue with its doorbell and its interrupt."""

    cdef readonly Virtqueue ring
    cdef readonly int kick_fd
    cdef readonly Notifier notifier
    cdef uint32_t _completed   # given back since the last interrupt
    cdef uint16_t _depth       # requests that the driver is expected to have under way

    def __cinit__(self, Virtqueue ring not None, int kick_fd, Notifier notifier not None):
        self.ring = ring
        self.kick_fd = kick_fd
        self.notifier = notifier

    cdef void complete(self, uint16_t head, uint32_t written) noexcept nogil:
        self.ring.push(head, written)
        self._completed += 1

    cdef void interrupt(self) noexcept nogil:
        """Tell the driver of what is complete, once for all of it and if it wants to know."""
        if self._completed:
            self._completed = 0
            if self.ring.should_notify():
                self.notifier.notify()

    cdef bint await_more(self) noexcept nogil:
        """Whether another request comes so soon that one interrupt does for it too.

        A driver that hands its requests over one by one pays two exits for each if the device is
        fast: the kick and the interrupt.  While it has fewer under way than it had before, a moment
        is given to it; if nothing comes, it is expected to have fewer.
        """
        cdef uint16_t depth = self.ring.under_way()
        self._depth = max(self._depth, depth)
        if depth == self._depth or not 0 < self._completed < TOGETHER:
            return False
        if self.ring.await_more(PATIENCE):
            return True
        self._depth = depth + (self._depth - depth) // 2
        return False

    cdef void kick(self) noexcept nogil:
        """Have the loop look at this queue again."""
        cdef uint64_t one = 1
        write(self.kick_fd, &one, sizeof(one))


cdef class BlockEngine(Engine):
    """Serves the queues of one disk while a loop drives it.

    Without `writeback` each write is made durable before it completes.  `iops` is the most
    requests a second of `time`, 0 for no limit.  io_uring is used if there are
    `rings` for it.
    """

    cdef Disk _disk
    cdef bint _writeback
    cdef uint8_t _serial[20]
    cdef list _owned_queues
    cdef void *_queues[MAX_QUEUES]
    cdef Watch _kicks[MAX_QUEUES]
    cdef int _count
    cdef Watch _completions
    cdef Watch _clock
    cdef int _failure_fd
    cdef Chain *_chain
    cdef BoardTime _time
    cdef RateLimit _limit
    cdef Uring _uring
    cdef object _rings
    cdef Pending *_pool
    cdef Pending *_free
    cdef int _in_flight
    cdef bint _is_full           # something waits for one in flight to complete
    cdef bint _is_stopping
    cdef bint _is_broken
    cdef bint _reads_here        # the file system cannot say whether a read would wait
    cdef readonly uint64_t reads
    cdef readonly uint64_t writes
    cdef readonly uint64_t flushes
    cdef readonly uint64_t read_bytes
    cdef readonly uint64_t written_bytes

    def __cinit__(self, list queues not None, Disk disk not None, *, bint writeback,
                  bytes serial not None, int failure_fd, uint64_t iops=0,
                  BoardTime time=None, object rings=None):
        if not 0 < len(queues) <= MAX_QUEUES:
            raise ValueError(f"a disk has 1 to {MAX_QUEUES} queues")
        self._chain = <Chain *>calloc(1, sizeof(Chain))
        if self._chain == NULL:
            raise MemoryError()
        self._owned_queues = list(queues)
        self._count = len(queues)
        for index, queue in enumerate(queues):
            self._queues[index] = <void *>(<BlockQueue?>queue)
            self._kicks[index].fd = queue.kick_fd
            self._kicks[index].ready = <ready_t>_kicked
            self._kicks[index].context = <void *>self
            self._kicks[index].tag = index
        self._disk = disk
        self._writeback = writeback
        self._failure_fd = failure_fd
        memset(self._serial, 0, sizeof(self._serial))
        memcpy(self._serial, <char *>serial, min(len(serial), VIRTIO_BLK_ID_BYTES))
        if iops:
            self._time = time or BoardTime()
            self._limit = RateLimit(iops, NS_PER_SECOND, max(<uint64_t>1, iops // BURSTS_PER_SECOND))
            self._clock.fd = self._time.new_alarm()
            self._clock.ready = <ready_t>_clock_rang
            self._clock.context = <void *>self
        self._rings = rings
        if rings is not None and disk.capacity:
            self._prepare_uring()

    def _prepare_uring(self):
        try:
            self._uring = self._rings.take(IN_FLIGHT)
        except OSError:
            # An old kernel, or one whose owner forbids it: one request after the other, then.
            return
        self._completions.fd = self._uring.event_fd
        self._completions.ready = <ready_t>_completed
        self._completions.context = <void *>self
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

    def release(self):
        """Give ring and alarm back, once detached; the engine is not used again."""
        if self._limit is not None:
            self._time.forget_alarm(self._clock.fd)
            self._limit = None
        if self._uring is not None and self._in_flight == 0:
            self._rings.give_back(self._uring)
        self._uring = None

    def __dealloc__(self):
        free(self._pool)
        free(self._chain)

    cdef int start(self) except -1:
        """Watch doorbells, completions and the clock; what is offered already is served too."""
        cdef int i
        self._is_stopping = self._is_broken = self._is_full = False
        if self._uring is not None:
            self._watch(&self._completions)
        if self._limit is not None:
            self._watch(&self._clock)
        for i in range(self._count):
            # Requests may have been offered before the engine was there to hear the doorbell.
            (<BlockQueue>self._queues[i]).kick()
            self._watch(&self._kicks[i])
        return 0

    cdef _watch(self, Watch *watch):
        # Edge-triggered: eventfds need not be read, which saves a system call a kick.
        if self._loop.watch(watch, EPOLLIN | EPOLLET) < 0:
            raise failed("epoll_ctl")

    cdef bint stop(self) noexcept nogil:
        """Take nothing new; whether nothing is in flight."""
        self._is_stopping = True
        self._deafen()
        if self._in_flight == 0:
            self._end_watch()
            return True
        return False

    cdef void _deafen(self) noexcept nogil:
        cdef int i
        for i in range(self._count):
            self._loop.unwatch(&self._kicks[i])
        if self._limit is not None:
            self._loop.unwatch(&self._clock)

    cdef void _end_watch(self) noexcept nogil:
        if self._uring is not None:
            self._loop.unwatch(&self._completions)

    cdef void _serve_all(self) noexcept nogil:
        cdef int i
        for i in range(self._count):
            self._serve(<BlockQueue>self._queues[i])
        self._settle()

    cdef void _settle(self) noexcept nogil:
        """Hand over what was started, and go on with what is complete already."""
        if self._uring is None:
            return
        self._uring.submit()
        while self._reap() and self._is_full and not self._is_stopping and not self._is_broken:
            self._is_full = False
            for i in range(self._count):
                self._serve(<BlockQueue>self._queues[i])
            self._uring.submit()

    cdef void _break(self, BlockQueue queue, int error) noexcept nogil:
        cdef uint64_t one = 1
        if error:
            queue.ring.error = error
        self._is_broken = True
        self._deafen()
        write(self._failure_fd, &one, sizeof(one))

    cdef void _serve(self, BlockQueue queue) noexcept nogil:
        """Take what the driver offers, at most a batch."""
        cdef int got = 0, served = 0
        cdef bint started = False
        cdef uint32_t written
        cdef Outcome outcome
        if self._is_stopping or self._is_broken:
            return
        queue.ring.disable_kicks()
        while True:
            if served == BATCH:
                # Others want to be served too; the doorbell brings the engine back.
                queue.kick()
                break
            if self._limit is not None and not self._admits():
                # What is offered stays in the ring; the clock wakes the engine for it.
                break
            if self._uring is not None and self._free == NULL:
                self._is_full = True
                self._refund()
                break
            got = queue.ring.pop(self._chain)
            if got <= 0:
                self._refund()
                if got < 0:
                    break
                # What was started has yet to be handed over.
                if not started and queue.await_more():
                    continue
                queue.interrupt()
                if not queue.ring.enable_kicks():
                    return
                queue.ring.disable_kicks()
                continue
            served += 1
            outcome = self._serve_request(queue, &written)
            if outcome == BROKEN:
                got = -1
                break
            if outcome == STARTED:
                started = True
            else:
                queue.complete(self._chain.head, written)
        queue.interrupt()
        if got < 0:
            self._break(queue, 0 if queue.ring.error else RING_BAD_REQUEST)

    cdef bint _admits(self) noexcept nogil:
        """Whether another request may be taken now; it is counted if so, and else waited for."""
        cdef uint64_t now_ns = self._time.now_ns()
        if self._limit.take(now_ns, 1):
            return True
        self._time.set_alarm(self._clock.fd, self._limit.when(now_ns, 1))
        return False

    cdef void _refund(self) noexcept nogil:
        if self._limit is not None:
            self._limit.give_back(1)

    cdef Outcome _serve_request(self, BlockQueue queue, uint32_t *written) noexcept nogil:
        """Do or start the request in self._chain; BROKEN without room for header or status."""
        cdef Chain *chain = self._chain
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
            outcome = self._transfer(queue, header.sector, False, status_byte, &status)
            if status == VIRTIO_BLK_S_OK:
                written[0] = <uint32_t>chain.writable_bytes
        elif header.type == <uint32_t>VIRTIO_BLK_T_OUT:
            outcome = self._transfer(queue, header.sector, True, status_byte, &status)
        elif header.type == <uint32_t>VIRTIO_BLK_T_FLUSH:
            self.flushes += 1
            if self._start_flush(queue, status_byte):
                return STARTED
            status = self._disk.flush()
        elif header.type == <uint32_t>VIRTIO_BLK_T_DISCARD:
            status = self._for_ranges(False)
        elif header.type == <uint32_t>VIRTIO_BLK_T_WRITE_ZEROES:
            status = self._for_ranges(True)
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

    cdef int _for_ranges(self, bint zero) noexcept nogil:
        cdef int status = self._disk.for_ranges(self._chain, self._chain.readable_bytes, zero)
        if status == VIRTIO_BLK_S_OK and not self._writeback:
            return self._disk.flush()
        return status

    cdef Outcome _transfer(self, BlockQueue queue, uint64_t sector, bint is_write,
                           uint8_t *status_byte, int *status) noexcept nogil:
        """Start the read or write in self._chain, or do it: then `status` is its result."""
        cdef Chain *chain = self._chain
        cdef iovec *data = &chain.iov[0 if is_write else chain.readable]
        cdef uint32_t count = chain.readable if is_write else chain.writable
        cdef uint64_t size = chain.readable_bytes if is_write else chain.writable_bytes
        cdef Outcome outcome
        status[0] = self._disk.check_range(sector, size, is_write)
        if status[0] != VIRTIO_BLK_S_OK:
            return DONE
        if size:
            outcome = self._start(queue, sector, data, count, size, is_write, status_byte)
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

    cdef Pending *_take_pending(self, BlockQueue queue, uint8_t *status) noexcept nogil:
        cdef Pending *request = self._free
        if self._uring is None or request == NULL:
            return NULL
        self._free = request.next
        self._in_flight += 1
        request.queue = <void *>queue
        request.head = self._chain.head
        request.status = status
        request.is_write = request.is_sync = False
        request.size = request.left = 0
        request.heap = NULL
        return request

    cdef Outcome _start(self, BlockQueue queue, uint64_t sector, const iovec *iov, uint32_t count,
                        uint64_t size, bint is_write, uint8_t *status) noexcept nogil:
        """Hand a transfer to the kernel, or do it if the page cache has it: that is faster."""
        cdef Pending *request
        cdef uint64_t offset = sector * SECTOR_BYTES
        cdef ssize_t done
        cdef bint shared
        cdef int fd
        if self._uring is None:
            return REFUSED
        fd = self._disk.fd_for(iov, count, offset)
        # A large copy makes the next request wait: if there is one, the kernel's workers help.
        shared = size >= LARGE and (self._in_flight or queue.ring.has_more())
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

    cdef bint _start_flush(self, BlockQueue queue, uint8_t *status) noexcept nogil:
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
            return self._uring.datasync(self._disk.fd, cookie)
        if request.is_write:
            return self._uring.write(request.fd, request.iov, request.count, request.offset, cookie)
        return self._uring.read(request.fd, request.iov, request.count, request.offset, cookie)

    cdef bint _reap(self) noexcept nogil:
        """Go on with what the kernel has completed; whether there was anything."""
        cdef uint64_t cookie
        cdef int result, i
        cdef bint any = False
        while self._uring.take(&cookie, &result):
            any = True
            self._continue(&self._pool[cookie], result)
        if any:
            self._uring.submit()
            for i in range(self._count):
                (<BlockQueue>self._queues[i]).interrupt()
            if self._is_stopping and self._in_flight == 0:
                self._end_watch()
                self.now_idle()
        return any

    cdef void _continue(self, Pending *request, int result) noexcept nogil:
        if not request.is_sync and not request.is_write:
            # What a failed read has left is anybody's guess.
            filled((<BlockQueue>request.queue).ring._memory, request.iov, request.count,
                   <uint64_t>result if result > 0 else request.left)
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
                advance(&request.iov, &request.count, result)
                if self._disk.align:
                    request.fd = self._disk.buffered_fd
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
        wrote((<BlockQueue>request.queue).ring._memory, request.status, 1)
        if status == VIRTIO_BLK_S_OK and request.size:
            self._count_transfer(request.is_write, request.size)
            if not request.is_write:
                written += <uint32_t>request.size
        if block_complete.enabled:
            block_complete.report(request.is_write, status, 0, 0)
        (<BlockQueue>request.queue).complete(request.head, written)
        self._give_back(request)

    cdef void _give_back(self, Pending *request) noexcept nogil:
        free(request.heap)
        request.heap = NULL
        request.next = self._free
        self._free = request
        self._in_flight -= 1


cdef void _kicked(BlockEngine engine, int tag, uint32_t _events) noexcept nogil:
    engine._serve(<BlockQueue>engine._queues[tag])
    engine._settle()


cdef void _completed(BlockEngine engine, int _tag, uint32_t _events) noexcept nogil:
    engine._settle()


cdef void _clock_rang(BlockEngine engine, int _tag, uint32_t _events) noexcept nogil:
    engine._serve_all()
