"""A disk's engine: serves the queues of a virtio-blk device without the GIL.

One engine serves all queues of one device, many requests at a time and in any order, and not more
in a second than its limit admits.  A broken ring stops the engine and is reported through the
failure eventfd.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from posix.unistd cimport write

from stratovirt._native.block_queue cimport BlockQueue
from stratovirt._native.block_requests cimport BROKEN, STARTED, BlockRequests, Outcome
from stratovirt._native.board_time cimport BoardTime
from stratovirt._native.disk cimport Disk
from stratovirt._native.io_loop cimport EPOLLET, EPOLLIN, Engine, Watch, ready_t
from stratovirt._native.kernel cimport failed
from stratovirt._native.rate_limit cimport RateLimit
from stratovirt._native.virtqueue cimport RING_BAD_REQUEST, Chain

cdef enum:
    MAX_QUEUES = 32         # num-queues of the guidebook
    NS_PER_SECOND = 1000000000
    BURSTS_PER_SECOND = 10  # a limited disk may run ahead by this part of a second's worth
    BATCH = 256             # requests of one queue before others have their turn


cdef class BlockEngine(Engine):
    """Serves the queues of one disk while a loop drives it.

    Without `writeback` each write is made durable before it completes.  `iops` is the most
    requests a second of `time`, 0 for no limit.  io_uring is used if there are
    `rings` for it.
    """

    cdef readonly BlockRequests requests
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
    cdef bint _is_full           # something waits for one in flight to complete
    cdef bint _is_stopping
    cdef bint _is_broken

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
        self._failure_fd = failure_fd
        if iops:
            self._time = time or BoardTime()
            self._limit = RateLimit(iops, NS_PER_SECOND, max(<uint64_t>1, iops // BURSTS_PER_SECOND))
            self._clock.fd = self._time.new_alarm()
            self._clock.ready = <ready_t>_clock_rang
            self._clock.context = <void *>self
        self.requests = BlockRequests(disk, writeback=writeback, serial=serial, rings=rings)
        if self.is_asynchronous:
            self._completions.fd = self.requests.uring.event_fd
            self._completions.ready = <ready_t>_completed
            self._completions.context = <void *>self

    @property
    def is_asynchronous(self):
        """Whether requests go through io_uring."""
        return self.requests.uring is not None

    def release(self):
        """Give ring and alarm back, once detached; the engine is not used again."""
        if self._limit is not None:
            self._time.forget_alarm(self._clock.fd)
            self._limit = None
        self.requests.release()

    def __dealloc__(self):
        free(self._chain)

    cdef int start(self) except -1:
        """Watch doorbells, completions and the clock; what is offered already is served too."""
        cdef int i
        self._is_stopping = self._is_broken = self._is_full = False
        if self.requests.uring is not None:
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
        if self.requests.is_idle():
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
        if self.requests.uring is not None:
            self._loop.unwatch(&self._completions)

    cdef void _serve_all(self) noexcept nogil:
        cdef int i
        for i in range(self._count):
            self._serve(<BlockQueue>self._queues[i])
        self._settle()

    cdef void _settle(self) noexcept nogil:
        """Hand over what was started, and go on with what is complete already."""
        if self.requests.uring is None:
            return
        self.requests.uring.submit()
        while self._reap() and self._is_full and not self._is_stopping and not self._is_broken:
            self._is_full = False
            for i in range(self._count):
                self._serve(<BlockQueue>self._queues[i])
            self.requests.uring.submit()

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
            if self.requests.is_full():
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
            outcome = self.requests.serve(queue, self._chain, &written)
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

    cdef bint _reap(self) noexcept nogil:
        """Go on with what the kernel has completed; whether there was anything."""
        cdef int i
        if not self.requests.reap():
            return False
        for i in range(self._count):
            (<BlockQueue>self._queues[i]).interrupt()
        if self._is_stopping and self.requests.is_idle():
            self._end_watch()
            self.now_idle()
        return True


cdef void _kicked(BlockEngine engine, int tag, uint32_t _events) noexcept nogil:
    engine._serve(<BlockQueue>engine._queues[tag])
    engine._settle()


cdef void _completed(BlockEngine engine, int _tag, uint32_t _events) noexcept nogil:
    engine._settle()


cdef void _clock_rang(BlockEngine engine, int _tag, uint32_t _events) noexcept nogil:
    engine._serve_all()
