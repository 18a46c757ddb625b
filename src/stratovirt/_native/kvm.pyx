"""KVM on every architecture: the machine, its interrupts and doorbells, and the vCPU loop.

This is the border between Python and the kernel's ABI: a failed ioctl becomes an OSError that
names it, a struct becomes a dict with the kernel's field names.  A module named after an
architecture derives its classes from these.
"""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.signal cimport SIGBUS, SIGFPE, SIGILL, SIGSEGV
from libc.stdint cimport int32_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from posix.unistd cimport close

from stratovirt._native.dispatch cimport MMIO, Dispatcher
from stratovirt._native.guest_memory cimport GuestMemory
from stratovirt._native.kernel cimport call_error, failed, ioctl
from stratovirt._native.kvm_abi cimport *
from stratovirt._native.kvm_dirty_log cimport has_clear, move_dirty
from stratovirt._native.trace cimport TraceEvent

import os

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

# What Vcpu.run() returns; all other exits are handled in the loop.
KICKED = IS_KICKED
SHUTDOWN = IS_SHUTDOWN
HALTED = IS_HALTED
FAIL_ENTRY = IS_FAIL_ENTRY
INTERNAL_ERROR = IS_INTERNAL_ERROR
SYSTEM_EVENT = IS_SYSTEM_EVENT
UNHANDLED = IS_UNHANDLED
RUN_FAILED = IS_RUN_FAILED

cdef TraceEvent kvm_exit = trace_events.KVM_EXIT
cdef TraceEvent io_python = trace_events.IO_PYTHON


cdef void _ignore(int signum) noexcept nogil:
    pass


cdef class Kvm:
    """The ``/dev/kvm`` device. Raises OSError when it cannot be opened."""

    def __cinit__(self, str path="/dev/kvm"):
        self.fd = -1
        self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def __dealloc__(self):
        # 0 is that of an object whose constructor was not reached.
        if self.fd > 0:
            close(self.fd)

    @property
    def api_version(self):
        """The kernel's KVM API version; 12 is the only one there is."""
        return ioctl(self.fd, KVM_GET_API_VERSION, 0)

    def missing_capabilities(self):
        """Names of the capabilities this VMM needs and the kernel lacks."""
        needed = {
            "KVM_CAP_IRQCHIP": KVM_CAP_IRQCHIP, "KVM_CAP_IRQFD": KVM_CAP_IRQFD,
            "KVM_CAP_IOEVENTFD": KVM_CAP_IOEVENTFD, "KVM_CAP_USER_MEMORY": KVM_CAP_USER_MEMORY,
            "KVM_CAP_IMMEDIATE_EXIT": KVM_CAP_IMMEDIATE_EXIT,
            "KVM_CAP_IRQ_ROUTING": KVM_CAP_IRQ_ROUTING, "KVM_CAP_READONLY_MEM": KVM_CAP_READONLY_MEM,
        }
        return self.lacking(needed)

    cdef list lacking(self, dict needed):
        return [name for name, cap in needed.items()
                if ioctl(self.fd, KVM_CHECK_EXTENSION, <unsigned long>cap) <= 0]


cdef class KvmVm:
    """One machine in the kernel, new and empty."""

    def __cinit__(self, Kvm system not None):
        self.fd = -1
        self._system = system
        self.fd = ioctl(system.fd, KVM_CREATE_VM, 0)
        if self.fd < 0:
            raise failed("KVM_CREATE_VM")

    def __dealloc__(self):
        # 0 is that of an object whose constructor was not reached.
        if self.fd > 0:
            close(self.fd)

    def set_memory_region(self, uint32_t slot, uint64_t gpa, uint64_t size, uint64_t hva,
                          bint readonly=False, bint logged=False):
        """Map `size` bytes of host memory at `gpa`; size 0 removes the slot.

        `logged` has KVM log the guest's writes, also of a slot that exists as it is otherwise.
        """
        cdef kvm_userspace_memory_region region
        region.slot = slot
        region.flags = KVM_MEM_READONLY if readonly else 0
        if logged:
            region.flags |= KVM_MEM_LOG_DIRTY_PAGES
        region.guest_phys_addr = gpa
        region.memory_size = size
        region.userspace_addr = hva
        if ioctl(self.fd, KVM_SET_USER_MEMORY_REGION, &region) < 0:
            raise failed("KVM_SET_USER_MEMORY_REGION")

    def enable_log_clearing(self):
        """Have `take_written` protect pages in small pieces; whether the kernel can do that."""
        return has_clear(self.fd)

    def take_written(self, uint32_t slot, uint64_t gpa, uint64_t size, GuestMemory memory not None,
                     bint clearing):
        """Move the pages that the guest wrote in a logged slot to the log of `memory`."""
        cdef const char *refused
        cdef int error = 0
        if not memory.is_logged:
            raise ValueError("writes are not logged")
        with nogil:
            refused = move_dirty(self.fd, slot, gpa, size, memory._log, clearing, &error)
        if refused != NULL:
            raise call_error(error, refused.decode())

    def set_irq_level(self, uint32_t gsi, bint level):
        """Drive a GSI's line."""
        cdef kvm_irq_level line
        line.irq = gsi
        line.level = level
        if ioctl(self.fd, KVM_IRQ_LINE, &line) < 0:
            raise failed("KVM_IRQ_LINE")

    def set_irqfd(self, int fd, uint32_t gsi, bint assign=True, int resample_fd=-1):
        """Let writes to eventfd `fd` pulse a GSI.

        With `resample_fd` they raise its line, which falls when the guest has handled the
        interrupt, and that eventfd is signalled then.
        """
        cdef kvm_irqfd request
        memset(&request, 0, sizeof(request))
        request.fd = fd
        request.gsi = gsi
        request.flags = 0 if assign else KVM_IRQFD_FLAG_DEASSIGN
        if resample_fd >= 0:
            request.flags |= KVM_IRQFD_FLAG_RESAMPLE
            request.resamplefd = resample_fd
        if ioctl(self.fd, KVM_IRQFD, &request) < 0:
            raise failed("KVM_IRQFD")

    def set_msi_routes(self, dict messages not None):
        """Make GSIs send messages: (address, data) by GSI, all of them above the lines.

        The lines of the interrupt controllers stay as the kernel has them at first.
        """
        cdef Py_ssize_t count = self.line_routes(NULL) + len(messages)
        cdef kvm_irq_routing *table = <kvm_irq_routing *>calloc(
            1, sizeof(kvm_irq_routing) + count * sizeof(kvm_irq_routing_entry))
        cdef kvm_irq_routing_entry *entry
        if table == NULL:
            raise MemoryError()
        try:
            entry = table.entries + self.line_routes(table.entries)
            for gsi, (address, data) in messages.items():
                entry.type = KVM_IRQ_ROUTING_MSI
                entry.gsi = gsi
                entry.u.msi.address_lo = address & 0xFFFFFFFF
                entry.u.msi.address_hi = address >> 32
                entry.u.msi.data = data
                entry += 1
            table.nr = <uint32_t>count
            if ioctl(self.fd, KVM_SET_GSI_ROUTING, table) < 0:
                raise failed("KVM_SET_GSI_ROUTING")
        finally:
            free(table)

    cdef int line_routes(self, kvm_irq_routing_entry *entries) noexcept:
        return 0

    def set_ioeventfd(self, int fd, uint64_t address, uint32_t size, object value=None,
                      bint assign=True):
        """Let guest writes of `value` (any when None) signal eventfd `fd` without an exit."""
        cdef kvm_ioeventfd request
        memset(&request, 0, sizeof(request))
        request.addr = address
        request.len = size
        request.fd = fd
        if value is not None:
            request.datamatch = value
            request.flags |= KVM_IOEVENTFD_FLAG_DATAMATCH
        if not assign:
            request.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN
        if ioctl(self.fd, KVM_IOEVENTFD, &request) < 0:
            raise failed("KVM_IOEVENTFD")

    def create_vfio_device(self):
        """KVM's side of VFIO, as a descriptor; it is told of each group."""
        cdef kvm_create_device request
        memset(&request, 0, sizeof(request))
        request.type = KVM_DEV_TYPE_VFIO
        if ioctl(self.fd, KVM_CREATE_DEVICE, &request) < 0:
            raise failed("KVM_CREATE_DEVICE")
        return request.fd

    def set_vfio_group(self, int device_fd, int group_fd, bint added):
        """Tell KVM's side of VFIO that a group came or goes."""
        cdef kvm_device_attr request
        cdef int32_t fd = group_fd
        memset(&request, 0, sizeof(request))
        request.group = KVM_DEV_VFIO_GROUP
        request.attr = KVM_DEV_VFIO_GROUP_ADD if added else KVM_DEV_VFIO_GROUP_DEL
        request.addr = <uint64_t><uintptr_t>&fd
        if ioctl(device_fd, KVM_SET_DEVICE_ATTR, &request) < 0:
            raise failed("KVM_SET_DEVICE_ATTR")


cdef class KvmVcpu:
    """vCPU `index` of a machine; its exits are routed by `dispatcher`.

    `run` belongs to its own thread; `kick` may be called from any.
    """

    def __cinit__(self, KvmVm vm not None, int index, Dispatcher dispatcher not None):
        cdef void *page
        self.fd = -1
        self.index = index
        self._vm = vm
        self._dispatcher = dispatcher
        self.fd = ioctl(vm.fd, KVM_CREATE_VCPU, <unsigned long>index)
        if self.fd < 0:
            raise failed("KVM_CREATE_VCPU")
        self._run_size = ioctl(vm._system.fd, KVM_GET_VCPU_MMAP_SIZE, 0)
        page = mmap(NULL, self._run_size, PROT_READ | PROT_WRITE, MAP_SHARED, self.fd, 0)
        if page == MAP_FAILED:
            raise failed("mmap of the vCPU")
        self._run = <kvm_run *>page

    def __dealloc__(self):
        if self._run != NULL:
            munmap(self._run, self._run_size)
        # 0 is that of an object whose constructor was not reached.
        if self.fd > 0:
            close(self.fd)

    def kick(self):
        """Make `run` return KICKED as soon as the vCPU is between two instructions."""
        self._run.immediate_exit = 1
        if self._running:
            pthread_kill(self._thread, SIGRTMIN)

    def run(self):
        """Run until something happens that the control plane must decide; returns which.

        Exits to regions of the map are answered in here.  An exception from a Python region
        passes through.
        """
        cdef int result
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
                return IS_SYSTEM_EVENT
            else:
                outcome = self.take_exit()
                if outcome != ANSWERED:
                    return outcome

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
        reason = run.exit_reason
        if reason == KVM_EXIT_INTERNAL_ERROR:
            names = {1: "emulation failure", 2: "simultaneous exceptions",
                     3: "delivery of an event", 4: "unexpected exit reason"}
            suberror = run.internal.suberror
            words = [run.internal.data[i] for i in range(min(run.internal.ndata, 16))]
            return (f"KVM internal error {suberror} ({names.get(suberror, 'unknown')}) "
                    f"data [{' '.join(f'{word:x}' for word in words)}]")
        if reason == KVM_EXIT_FAIL_ENTRY:
            return (f"KVM could not enter the guest, hardware reason "
                    f"0x{run.fail_entry.hardware_entry_failure_reason:x}")
        if reason == KVM_EXIT_SYSTEM_EVENT:
            return f"KVM system event {run.system_event.type}"
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
