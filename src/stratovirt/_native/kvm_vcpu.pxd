# A vCPU of KVM on every architecture; a module of an architecture derives its vCPU from it.
from libc.stdint cimport uint64_t

from stratovirt._native.dispatch cimport Dispatcher
from stratovirt._native.kvm cimport KvmVm
from stratovirt._native.kvm_abi cimport kvm_run

cdef extern from "pthread.h" nogil:
    ctypedef unsigned long pthread_t

# What becomes of an exit: it is answered, it needs the GIL, or it is what KvmVcpu.run() returns.
cdef enum Outcome:
    ANSWERED = -2
    ASKS_PYTHON = -1
    IS_KICKED = 0
    IS_SHUTDOWN = 1
    IS_HALTED = 2
    IS_FAIL_ENTRY = 3
    IS_INTERNAL_ERROR = 4
    IS_POWER_OFF = 5
    IS_RESET = 6
    IS_CRASH = 7
    IS_SYSTEM_EVENT = 8
    IS_UNHANDLED = 9
    IS_RUN_FAILED = 10

cdef class KvmVcpu:
    cdef readonly int fd
    cdef readonly int index
    cdef readonly uint64_t exits
    cdef kvm_run *_run
    cdef size_t _run_size
    cdef Dispatcher _dispatcher
    cdef KvmVm _vm
    cdef pthread_t _thread
    cdef bint _running
    cdef void _release(self) noexcept
    cdef int _check_open(self) except -1
    cdef int _run_native(self) noexcept nogil
    cdef Outcome _system_event(self) noexcept nogil
    # An exit that only this architecture has; without the GIL.
    cdef Outcome take_exit(self) noexcept nogil
    # The exit that asked for Python; with the GIL.
    cdef int answer(self) except -1
