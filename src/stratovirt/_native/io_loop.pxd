from libc.stdint cimport uint32_t

cdef extern from "sys/epoll.h" nogil:
    int EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP
    uint32_t EPOLLET

cdef extern from "pthread.h" nogil:
    ctypedef struct pthread_mutex_t:
        pass

cdef extern from "semaphore.h" nogil:
    ctypedef struct sem_t:
        pass

# What a loop calls; `context` is the engine.
ctypedef void (*ready_t)(void *context, int tag, uint32_t events) noexcept nogil
ctypedef void (*call_t)(void *context) noexcept nogil

cdef struct Watch:
    int fd
    ready_t ready
    void *context
    int tag        # which of the engine's watches this is

cdef struct Call:
    call_t function
    void *context
    Call *next

cdef class IoLoop:
    cdef int _epoll_fd
    cdef int _wake_fd
    cdef bint _stopping
    cdef pthread_mutex_t _lock
    cdef Call *_calls
    cdef Call _stop_call
    cdef int watch(self, Watch *watch, uint32_t events) noexcept nogil
    cdef void change(self, Watch *watch, uint32_t events) noexcept nogil
    cdef void unwatch(self, Watch *watch) noexcept nogil
    cdef void call(self, Call *call) noexcept nogil
    cdef void _loop(self) noexcept nogil
    cdef void _run_calls(self) noexcept nogil

cdef class Engine:
    cdef IoLoop _loop
    cdef Call _stop_call
    cdef Call _idle_call
    cdef sem_t _idle
    cdef int start(self) except -1
    cdef bint stop(self) noexcept nogil
    cdef void now_idle(self) noexcept nogil
