"""A vCPU of KVM on every architecture: its loop, the exits that end the loop, and its signals.

A module named after an architecture derives its vCPU from this one.
"""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.signal cimport SIGBUS, SIGFPE, SIGILL, SIGSEGV
from libc.stdint cimport uint32_t
from libc.string cimport memset
from posix.unistd cimport close

from stratovirt._native.dispatch cimport MMIO, Dispatcher
from stratovirt._native.kernel cimport failed, ioctl
from stratovirt._native.kvm cimport KvmVm
from stratovirt._native.kvm_abi cimport *
from stratovirt._native.trace cimport TraceEvent

from stratovirt._native import trace_events

cdef extern from "sys/mman.h" nogil:
    void *mmap(void *addr, size_t length, int prot, int flags, int fd, long offset)
    int munmap(void *addr, size_t length)
    int PROT_READ, PROT_WRITE, MAP_SHARED
    void *MAP_FAILED

cdef extern from "signal.h" nogil:
    ctypedef struct sigset_t:
        pass
    struct sigaction_t "sigaction":
        void (*sa_handler)(int) noexcept nogil
        int sa_flags
    int sigaction(int signum, const sigaction_t *act, sigaction_t *old)
    int sigfillset(sigset_t *set)
    int sigdelset(sigset_t *set, int signum)
    int SIG_SETMASK, SIGSYS, SIGRTMIN

cdef extern from "pthread.h" nogil:
    pthread_t pthread_self()
    int pthread_kill(pthread_t thread, int signum)
    int pthread_sigmask(int how, const sigset_t *set, sigset_t *old)

# What KvmVcpu.run() returns: an exit that only the control plane can decide.
KICKED = IS_KICKED
SHUTDOWN = IS_SHUTDOWN
HALTED = IS_HALTED
FAIL_ENTRY = IS_FAIL_ENTRY
INTERNAL_ERROR = IS_INTERNAL_ERROR
POWER_OFF = IS_POWER_OFF
RESET = IS_RESET
CRASH = IS_CRASH
SYSTEM_EVENT = IS_SYSTEM_EVENT
UNHANDLED = IS_UNHANDLED
RUN_FAILED = IS_RUN_FAILED

INTERNAL_ERRORS = {
    KVM_INTERNAL_ERROR_EMULATION: "emulation failure",
    KVM_INTERNAL_ERROR_SIMUL_EX: "simultaneous exceptions",
    KVM_INTERNAL_ERROR_DELIVERY_EV: "delivery of an event",
    KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON: "unexpected exit reason",
}
SYSTEM_EVENTS = {
    KVM_SYSTEM_EVENT_SHUTDOWN: "shutdown",
    KVM_SYSTEM_EVENT_RESET: "reset",
    KVM_SYSTEM_EVENT_CRASH: "crash",
}

cdef TraceEvent kvm_exit = trace_events.KVM_EXIT
cdef TraceEvent io_python = trace_events.IO_PYTHON


cdef void _ignore(int signum) noexcept nogil:
    pass


cdef class KvmVcpu:
    """vCPU `index` of a machine; its exits are routed by `dispatcher`.

    `run` belongs to its own thread; `kick` may be called from any.  Both raise ValueError after
    `close`.
    """

    def __cinit__(self, KvmVm vm not None, int index, Dispatcher dispatcher not None):
        cdef void *page
        cdef int size
        self.fd = -1
        self.index = index
        self._vm = vm
        self._dispatcher = dispatcher
        self.fd = ioctl(vm.fd, KVM_CREATE_VCPU, <unsigned long>index)
        if self.fd < 0:
            raise failed("KVM_CREATE_VCPU")
        size = ioctl(vm._system.fd, KVM_GET_VCPU_MMAP_SIZE, 0)
        if size < 0:
            raise failed("KVM_GET_VCPU_MMAP_SIZE")
        self._run_size = size
        page = mmap(NULL, self._run_size, PROT_READ | PROT_WRITE, MAP_SHARED, self.fd, 0)
        if page == MAP_FAILED:
            raise failed("mmap of the vCPU")
        self._run = <kvm_run *>page

    def __dealloc__(self):
        self._release()

    def close(self):
        """Give the vCPU back; later calls change nothing.  Raises ValueError while it runs."""
        if self._running:
            raise ValueError("the vCPU runs")
        self._release()

    cdef void _release(self) noexcept:
        if self._run != NULL:
            munmap(self._run, self._run_size)
            self._run = NULL
        # 0 is that of an object whose constructor was not reached.
        if self.fd > 0:
            close(self.fd)
        self.fd = -1

    cdef int _check_open(self) except -1:
        if self._run == NULL:
            raise ValueError("the vCPU is closed")
        return 0

    def kick(self):
        """Make `run` return KICKED as soon as the vCPU is between two instructions."""
        self._check_open()
        self._run.immediate_exit = 1
        if self._running:
            pthread_kill(self._thread, SIGRTMIN)

    def run(self):
        """Run until something happens that the control plane must decide; returns which.

        Exits to regions of the map are answered in here.  An exception from a Python region
        passes through.
        """
        cdef int result
        self._check_open()
        self._thread = pthread_self()
        self._running = True
        try:
            while True:
                with nogil:
                    result = self._run_native()
                if result >= 0:
                    return result
                # A Python region has to answer; the GIL is held from here on.
                self.answer()
        finally:
            self._running = False

    cdef int _run_native(self) noexcept nogil:
        """Run and answer exits without the GIL; ASKS_PYTHON when a Python region must answer."""
        cdef kvm_run *run = self._run
        cdef uint32_t reason
        cdef Outcome outcome
        while True:
            if ioctl(self.fd, KVM_RUN, 0) < 0:
                if errno == EINTR:
                    if run.immediate_exit:
                        run.immediate_exit = 0
                        return IS_KICKED
                    continue
                if errno == EAGAIN:
                    continue
                return IS_RUN_FAILED
            self.exits += 1
            reason = run.exit_reason
            if kvm_exit.enabled:
                kvm_exit.report(self.index, reason, 0, 0)
            if reason == KVM_EXIT_MMIO:
                if not self._dispatcher.access_native(
                        MMIO, run.mmio.phys_addr, run.mmio.len, run.mmio.is_write, run.mmio.data):
                    return ASKS_PYTHON
            elif reason == KVM_EXIT_INTR:
                continue
            elif reason == KVM_EXIT_SHUTDOWN:
                return IS_SHUTDOWN
            elif reason == KVM_EXIT_HLT:
                return IS_HALTED
            elif reason == KVM_EXIT_FAIL_ENTRY:
                return IS_FAIL_ENTRY
            elif reason == KVM_EXIT_INTERNAL_ERROR:
                return IS_INTERNAL_ERROR
            elif reason == KVM_EXIT_SYSTEM_EVENT:
                return self._system_event()
            else:
                outcome = self.take_exit()
                if outcome != ANSWERED:
                    return outcome

    cdef Outcome _system_event(self) noexcept nogil:
        if self._run.system_event.type == KVM_SYSTEM_EVENT_SHUTDOWN:
            return IS_POWER_OFF
        if self._run.system_event.type == KVM_SYSTEM_EVENT_RESET:
            return IS_RESET
        if self._run.system_event.type == KVM_SYSTEM_EVENT_CRASH:
            return IS_CRASH
        return IS_SYSTEM_EVENT

    cdef Outcome take_exit(self) noexcept nogil:
        return IS_UNHANDLED

    cdef int answer(self) except -1:
        cdef kvm_run *run = self._run
        if io_python.enabled:
            io_python.report(0, run.mmio.phys_addr, run.mmio.len, run.mmio.is_write)
        self._dispatcher.access(MMIO, run.mmio.phys_addr, run.mmio.len, run.mmio.is_write,
                                run.mmio.data)
        return 0

    def describe_exit(self):
        """The last exit in words, for the log line."""
        cdef kvm_run *run = self._run
        self._check_open()
        reason = run.exit_reason
        if reason == KVM_EXIT_INTERNAL_ERROR:
            error = run.internal.suberror
            words = [run.internal.data[i] for i in range(min(run.internal.ndata, 16))]
            return (f"KVM internal error {error} ({INTERNAL_ERRORS.get(error, 'unknown')}) "
                    f"data [{' '.join(f'{word:x}' for word in words)}]")
        if reason == KVM_EXIT_FAIL_ENTRY:
            return (f"KVM could not enter the guest, hardware reason "
                    f"0x{run.fail_entry.hardware_entry_failure_reason:x}")
        if reason == KVM_EXIT_SYSTEM_EVENT:
            event = run.system_event.type
            return f"KVM system event {event} ({SYSTEM_EVENTS.get(event, 'unknown')})"
        return f"KVM exit reason {reason}, which this VMM does not expect"

    def note_paused(self):
        """The vCPU was stopped for a while: a guest's clock that must know of it is told."""


def prepare_vcpu_signals():
    """Install the kick signal's empty handler; once per process, before vCPU threads start."""
    cdef sigaction_t action
    memset(&action, 0, sizeof(action))
    action.sa_handler = _ignore
    if sigaction(SIGRTMIN, &action, NULL) < 0:
        raise failed("sigaction")


def block_signals_in_this_thread():
    """Leave this thread only the kick and faults of its own; the main thread handles the rest."""
    cdef sigset_t mask
    sigfillset(&mask)
    sigdelset(&mask, SIGRTMIN)
    for number in (SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGSYS):
        sigdelset(&mask, number)
    pthread_sigmask(SIG_SETMASK, &mask, NULL)
