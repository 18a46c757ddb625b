"""The loop of an I/O thread, and what it drives: engines, without the GIL.

A loop sleeps in epoll(7).  Engines register file descriptors with a function each, and the loop
calls it when one is ready.  One loop may drive the engines of several devices (an iothread).
What the main thread wants of an engine that runs is done by the loop between two rounds of
events, so an engine is only ever touched by one thread and needs no lock.
"""

from libc.errno cimport EINTR, errno
from libc.stdint cimport uint32_t, uint64_t
from posix.unistd cimport close, write

from stratovirt._native.kernel cimport failed

import os

cdef extern from "sys/epoll.h" nogil:
    cdef union epoll_data:
        void *ptr
    cdef struct epoll_event:
        uint32_t events
        epoll_data data
    int EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL
    int EPOLL_CLOEXEC
    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int operation, int fd, epoll_event *event)
    int epoll_wait(int epoll, epoll_event *events, int most, int timeout)

cdef extern from "pthread.h" nogil:
    int pthread_mutex_init(pthread_mutex_t *mutex, void *attributes)
    int pthread_mutex_lock(pthread_mutex_t *mutex)
    int pthread_mutex_unlock(pthread_mutex_t *mutex)
    int pthread_mutex_destroy(pthread_mutex_t *mutex)

cdef extern from "semaphore.h" nogil:
    int sem_init(sem_t *semaphore, int shared, unsigned int value)
    int sem_post(sem_t *semaphore)
    int sem_wait(sem_t *semaphore)
    int sem_destroy(sem_t *semaphore)

cdef enum:
    EVENTS = 32  # taken from the kernel at once


cdef class IoLoop:
    """Runs in a thread of its own until stopped."""

    def __cinit__(self):
        self._epoll_fd = self._wake_fd = -1
        pthread_mutex_init(&self._lock, NULL)
        self._epoll_fd = epoll_create1(EPOLL_CLOEXEC)
        if self._epoll_fd < 0:
            raise failed("epoll_create1")
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        cdef epoll_event event
        event.events = EPOLLIN | EPOLLET
        event.data.ptr = NULL
        if epoll_ctl(self._epoll_fd, EPOLL_CTL_ADD, self._wake_fd, &event) < 0:
            raise failed("epoll_ctl")
        self._stop_call.function = <call_t>_stop_loop
        self._stop_call.context = <void *>self

    def __dealloc__(self):
        self.close()
        pthread_mutex_destroy(&self._lock)

    def close(self):
        """Close the loop, whose `run` has returned; later calls change nothing."""
        if self._wake_fd >= 0:
            close(self._wake_fd)
        if self._epoll_fd >= 0:
            close(self._epoll_fd)
        self._wake_fd = self._epoll_fd = -1

    def run(self):
        """Drive the engines until `request_stop`; called in the loop's own thread."""
        with nogil:
            self._loop()

    def request_stop(self):
        """Make `run` return; engines must have been detached."""
        self.call(&self._stop_call)

    cdef void _loop(self) noexcept nogil:
        cdef epoll_event events[EVENTS]
        cdef Watch *watch
        cdef int count, i
        cdef bint called
        while not self._stopping:
            count = epoll_wait(self._epoll_fd, events, EVENTS, -1)
            called = False
            for i in range(count):
                watch = <Watch *>events[i].data.ptr
                if watch == NULL:
                    called = True
                else:
                    watch.ready(watch.context, watch.tag, events[i].events)
            # Only now: an engine that was told to stop may still be among this round's events.
            if called:
                self._run_calls()

    cdef void _run_calls(self) noexcept nogil:
        cdef Call *call
        cdef Call *following
        pthread_mutex_lock(&self._lock)
        call = self._calls
        self._calls = NULL
        pthread_mutex_unlock(&self._lock)
        while call != NULL:
            # The one that called may be gone as soon as the function has run.
            following = call.next
            call.function(call.context)
            call = following

    cdef void call(self, Call *call) noexcept nogil:
        """Have the loop's thread run `call` between two rounds of events; from any thread."""
        cdef uint64_t one = 1
        pthread_mutex_lock(&self._lock)
        call.next = self._calls
        self._calls = call
        pthread_mutex_unlock(&self._lock)
        write(self._wake_fd, &one, sizeof(one))

    cdef int watch(self, Watch *watch, uint32_t events) noexcept nogil:
        """Call the watch's function when one of `events` is there; 0, or -1 with errno set."""
        cdef epoll_event event
        event.events = events
        event.data.ptr = watch
        return epoll_ctl(self._epoll_fd, EPOLL_CTL_ADD, watch.fd, &event)

    cdef void change(self, Watch *watch, uint32_t events) noexcept nogil:
        """Look for other events."""
        cdef epoll_event event
        event.events = events
        event.data.ptr = watch
        epoll_ctl(self._epoll_fd, EPOLL_CTL_MOD, watch.fd, &event)

    cdef void unwatch(self, Watch *watch) noexcept nogil:
        """Look no more; of the round of events at hand the watch may still be called."""
        cdef epoll_event ignored
        epoll_ctl(self._epoll_fd, EPOLL_CTL_DEL, watch.fd, &ignored)


cdef void _stop_loop(IoLoop loop) noexcept nogil:
    loop._stopping = True


cdef class Engine:
    """Something a loop drives: serves queues from `attach` to `detach`.

    An engine defines `start` and `stop`, and calls `now_idle` once nothing is in flight when
    `stop` could not say so at once.
    """

    def __cinit__(self, *_arguments, **_options):
        sem_init(&self._idle, 0, 0)
        self._stop_call.function = <call_t>_stop_engine
        self._stop_call.context = <void *>self
        self._idle_call.function = <call_t>_engine_is_idle
        self._idle_call.context = <void *>self

    def __dealloc__(self):
        sem_destroy(&self._idle)

    def attach(self, IoLoop loop not None):
        """Serve from now on, in `loop`'s thread; raises OSError, and ValueError if it is closed."""
        if loop._epoll_fd < 0:
            raise ValueError("the loop is closed")
        self._loop = loop
        try:
            self.start()
        except BaseException:
            self.detach()
            raise

    def detach(self):
        """Stop; when this returns nothing is in flight and the engine is not touched again."""
        if self._loop is None:
            return
        with nogil:
            self._loop.call(&self._stop_call)
            while sem_wait(&self._idle) != 0 and errno == EINTR:
                pass
        self._loop = None

    cdef int start(self) except -1:
        """Watch what is to be watched."""
        raise NotImplementedError

    cdef bint stop(self) noexcept nogil:
        """In the loop's thread: take nothing new; whether nothing is in flight."""
        return True

    cdef void now_idle(self) noexcept nogil:
        """In the loop's thread: the last of what was in flight is complete."""
        self._loop.call(&self._idle_call)


cdef void _stop_engine(Engine engine) noexcept nogil:
    if engine.stop():
        sem_post(&engine._idle)


cdef void _engine_is_idle(Engine engine) noexcept nogil:
    sem_post(&engine._idle)
