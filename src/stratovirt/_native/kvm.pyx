"""``/dev/kvm``: the machine, its interrupts and doorbells, and the vCPU loop.

This is the border between Python and the kernel's ABI: a failed ioctl becomes an OSError that
names it, a struct becomes a dict with the kernel's field names.
"""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.signal cimport SIGBUS, SIGFPE, SIGILL, SIGSEGV
from libc.stdint cimport uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.unistd cimport close

from stratovirt._native.dispatch cimport MMIO, PIO, Dispatcher
from stratovirt._native.guest_memory cimport GuestMemory, RamMapping
from stratovirt._native.kvm_abi cimport *
from stratovirt._native.kvm_dirty_log cimport has_clear, move_dirty
from stratovirt._native.trace cimport TraceEvent

import os

from stratovirt.runtime import trace_events

cdef extern from "sys/ioctl.h" nogil:
    int ioctl(int fd, unsigned long request, ...)

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
    ctypedef unsigned long pthread_t
    pthread_t pthread_self()
    int pthread_kill(pthread_t thread, int signum)
    int pthread_sigmask(int how, const sigset_t *set, sigset_t *old)

cdef enum:
    MAX_CPUID_ENTRIES = 256  # KVM_MAX_CPUID_ENTRIES in the kernel
    PIC_PINS = 16

# What Vcpu.run() returns; all other exits are handled in the loop.
KICKED = 0
SHUTDOWN = 1
HALTED = 2
FAIL_ENTRY = 3
INTERNAL_ERROR = 4
SYSTEM_EVENT = 5
UNHANDLED = 6
RUN_FAILED = 7

cdef TraceEvent kvm_exit = trace_events.KVM_EXIT
cdef TraceEvent io_python = trace_events.IO_PYTHON


cdef void _ignore(int signum) noexcept nogil:
    pass


cdef object _failed(str what):
    number = errno
    return OSError(number, f"{what}: {os.strerror(number)}")


cdef class Kvm:
    """The ``/dev/kvm`` device. Raises OSError when it cannot be opened."""

    cdef readonly int fd

    def __cinit__(self, str path="/dev/kvm"):
        self.fd = -1
        self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def __dealloc__(self):
        if self.fd >= 0:
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
            "KVM_CAP_IMMEDIATE_EXIT": KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_PIT2": KVM_CAP_PIT2,
            "KVM_CAP_IRQ_ROUTING": KVM_CAP_IRQ_ROUTING, "KVM_CAP_READONLY_MEM": KVM_CAP_READONLY_MEM,
        }
        return [name for name, cap in needed.items()
                if ioctl(self.fd, KVM_CHECK_EXTENSION, <unsigned long>cap) <= 0]

    def has_tsc_deadline_timer(self):
        """Whether the in-kernel LAPIC offers TSC-deadline mode."""
        return ioctl(self.fd, KVM_CHECK_EXTENSION, <unsigned long>KVM_CAP_TSC_DEADLINE_TIMER) > 0

    def supported_cpuid(self):
        """The CPUID entries the kernel can give a guest, as dicts."""
        cdef kvm_cpuid2 *table = <kvm_cpuid2 *>calloc(
            1, sizeof(kvm_cpuid2) + MAX_CPUID_ENTRIES * sizeof(kvm_cpuid_entry2))
        if table == NULL:
            raise MemoryError()
        try:
            table.nent = MAX_CPUID_ENTRIES
            if ioctl(self.fd, KVM_GET_SUPPORTED_CPUID, table) < 0:
                raise _failed("KVM_GET_SUPPORTED_CPUID")
            return [table.entries[i] for i in range(table.nent)]
        finally:
            free(table)

    def create_vm(self):
        """A new, empty machine."""
        cdef int fd = ioctl(self.fd, KVM_CREATE_VM, 0)
        if fd < 0:
            raise _failed("KVM_CREATE_VM")
        cdef KvmVm vm = KvmVm.__new__(KvmVm)
        vm.fd = fd
        vm._mmap_size = ioctl(self.fd, KVM_GET_VCPU_MMAP_SIZE, 0)
        vm._system = self
        return vm


cdef class KvmVm:
    """One machine in the kernel."""

    cdef readonly int fd
    cdef int _mmap_size
    cdef Kvm _system

    def __dealloc__(self):
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
            raise _failed("KVM_SET_USER_MEMORY_REGION")

    def enable_log_clearing(self):
        """Have `take_written` protect pages in small pieces; whether the kernel can do that."""
        return has_clear(self.fd)

    def take_written(self, uint32_t slot, uint64_t gpa, uint64_t size, GuestMemory memory not None,
                     bint clearing):
        """Move the pages that the guest wrote in a logged slot to the log of `memory`."""
        cdef const char *failed
        cdef int error = 0
        if not memory.is_logged:
            raise ValueError("writes are not logged")
        with nogil:
            failed = move_dirty(self.fd, slot, gpa, size, memory._log, clearing, &error)
        if failed != NULL:
            raise OSError(error, f"{failed.decode()}: {os.strerror(error)}")

    def create_irqchip(self, uint64_t identity_map, uint64_t tss):
        """Create PIC, IOAPIC and LAPICs in the kernel, with the pages Intel's VMX needs."""
        if ioctl(self.fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map) < 0:
            raise _failed("KVM_SET_IDENTITY_MAP_ADDR")
        if ioctl(self.fd, KVM_SET_TSS_ADDR, <unsigned long>tss) < 0:
            raise _failed("KVM_SET_TSS_ADDR")
        if ioctl(self.fd, KVM_CREATE_IRQCHIP, 0) < 0:
            raise _failed("KVM_CREATE_IRQCHIP")

    def create_pit(self):
        """Create the i8254 timer in the kernel; port 0x61 is answered there too."""
        cdef kvm_pit_config config
        memset(&config, 0, sizeof(config))
        config.flags = KVM_PIT_SPEAKER_DUMMY
        if ioctl(self.fd, KVM_CREATE_PIT2, &config) < 0:
            raise _failed("KVM_CREATE_PIT2")

    def set_irq_level(self, uint32_t gsi, bint level):
        """Drive a GSI's line."""
        cdef kvm_irq_level line
        line.irq = gsi
        line.level = level
        if ioctl(self.fd, KVM_IRQ_LINE, &line) < 0:
            raise _failed("KVM_IRQ_LINE")

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
            raise _failed("KVM_IRQFD")

    def set_msi_routes(self, dict messages not None):
        """Make GSIs send messages: (address, data) by GSI, all of them above the IOAPIC's pins.

        The lines of the interrupt controllers stay as the kernel has them at first.
        """
        cdef Py_ssize_t count = KVM_IOAPIC_NUM_PINS + PIC_PINS + len(messages)
        cdef kvm_irq_routing *table = <kvm_irq_routing *>calloc(
            1, sizeof(kvm_irq_routing) + count * sizeof(kvm_irq_routing_entry))
        cdef kvm_irq_routing_entry *entry
        cdef int pin
        if table == NULL:
            raise MemoryError()
        try:
            entry = table.entries
            for pin in range(KVM_IOAPIC_NUM_PINS + PIC_PINS):
                entry.type = KVM_IRQ_ROUTING_IRQCHIP
                if pin < KVM_IOAPIC_NUM_PINS:
                    entry.gsi = entry.u.irqchip.pin = pin
                    entry.u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC
                else:
                    entry.gsi = pin - KVM_IOAPIC_NUM_PINS
                    entry.u.irqchip.pin = entry.gsi % 8
                    entry.u.irqchip.irqchip = (
                        KVM_IRQCHIP_PIC_MASTER if entry.gsi < 8 else KVM_IRQCHIP_PIC_SLAVE)
                entry += 1
            for gsi, (address, data) in messages.items():
                entry.type = KVM_IRQ_ROUTING_MSI
                entry.gsi = gsi
                entry.u.msi.address_lo = address & 0xFFFFFFFF
                entry.u.msi.address_hi = address >> 32
                entry.u.msi.data = data
                entry += 1
            table.nr = <uint32_t>count
            if ioctl(self.fd, KVM_SET_GSI_ROUTING, table) < 0:
                raise _failed("KVM_SET_GSI_ROUTING")
        finally:
            free(table)

    def set_ioeventfd(self, int fd, uint64_t address, uint32_t size, object value=None,
                      bint port=False, bint assign=True):
        """Let guest writes of `value` (any when None) signal eventfd `fd` without an exit."""
        cdef kvm_ioeventfd request
        memset(&request, 0, sizeof(request))
        request.addr = address
        request.len = size
        request.fd = fd
        if value is not None:
            request.datamatch = value
            request.flags |= KVM_IOEVENTFD_FLAG_DATAMATCH
        if port:
            request.flags |= KVM_IOEVENTFD_FLAG_PIO
        if not assign:
            request.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN
        if ioctl(self.fd, KVM_IOEVENTFD, &request) < 0:
            raise _failed("KVM_IOEVENTFD")

    def create_vfio_device(self):
        """KVM's side of VFIO, as a descriptor; it is told of each group."""
        cdef kvm_create_device request
        memset(&request, 0, sizeof(request))
        request.type = KVM_DEV_TYPE_VFIO
        if ioctl(self.fd, KVM_CREATE_DEVICE, &request) < 0:
            raise _failed("KVM_CREATE_DEVICE")
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
            raise _failed("KVM_SET_DEVICE_ATTR")

    def create_vcpu(self, int index, Dispatcher dispatcher not None):
        """Create vCPU `index`; its exits are routed by `dispatcher`."""
        cdef int fd = ioctl(self.fd, KVM_CREATE_VCPU, <unsigned long>index)
        if fd < 0:
            raise _failed("KVM_CREATE_VCPU")
        cdef KvmVcpu vcpu = KvmVcpu.__new__(KvmVcpu)
        vcpu.fd = fd
        vcpu.index = index
        vcpu._dispatcher = dispatcher
        vcpu._vm = self
        vcpu._run_size = self._mmap_size
        cdef void *page = mmap(NULL, self._mmap_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
        if page == MAP_FAILED:
            raise _failed("mmap of the vCPU")
        vcpu._run = <kvm_run *>page
        return vcpu


cdef class KvmVcpu:
    """One vCPU. `run` belongs to its own thread; `kick` may be called from any."""

    cdef readonly int fd
    cdef readonly int index
    cdef readonly uint64_t exits
    cdef kvm_run *_run
    cdef size_t _run_size
    cdef Dispatcher _dispatcher
    cdef KvmVm _vm
    cdef pthread_t _thread
    cdef bint _running

    def __dealloc__(self):
        if self._run != NULL:
            munmap(self._run, self._run_size)
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
                self._answer()
        finally:
            self._running = False

    cdef int _run_native(self) noexcept nogil:
        """Run and answer exits without the GIL; -1 when a Python region must answer one."""
        cdef kvm_run *run = self._run
        cdef uint32_t reason, i
        cdef uint8_t *data
        while True:
            if ioctl(self.fd, KVM_RUN, 0) < 0:
                if errno == EINTR:
                    if run.immediate_exit:
                        run.immediate_exit = 0
                        return 0  # KICKED
                    continue
                if errno == EAGAIN:
                    continue
                return 7  # RUN_FAILED
            self.exits += 1
            reason = run.exit_reason
            if kvm_exit.enabled:
                kvm_exit.report(self.index, reason, 0, 0)
            if reason == KVM_EXIT_IO:
                data = <uint8_t *>run + run.io.data_offset
                i = 0
                while i < run.io.count:
                    if not self._dispatcher.access_native(
                            PIO, run.io.port, run.io.size,
                            run.io.direction == KVM_EXIT_IO_OUT, data + i * run.io.size):
                        # _answer starts over, which is right only when nothing was done yet: a
                        # string access stays on one port, so it is Python's from the start.
                        return -1
                    i += 1
            elif reason == KVM_EXIT_MMIO:
                if not self._dispatcher.access_native(
                        MMIO, run.mmio.phys_addr, run.mmio.len, run.mmio.is_write, run.mmio.data):
                    return -1
            elif reason == KVM_EXIT_INTR:
                continue
            elif reason == KVM_EXIT_SHUTDOWN:
                return 1
            elif reason == KVM_EXIT_HLT:
                return 2
            elif reason == KVM_EXIT_FAIL_ENTRY:
                return 3
            elif reason == KVM_EXIT_INTERNAL_ERROR:
                return 4
            elif reason == KVM_EXIT_SYSTEM_EVENT:
                return 5
            else:
                return 6

    cdef int _answer(self) except -1:
        cdef kvm_run *run = self._run
        cdef uint8_t *data
        cdef uint32_t i
        if run.exit_reason == KVM_EXIT_IO:
            if io_python.enabled:
                io_python.report(1, run.io.port, run.io.size, run.io.direction)
            data = <uint8_t *>run + run.io.data_offset
            for i in range(run.io.count):
                self._dispatcher.access(PIO, run.io.port, run.io.size,
                                        run.io.direction == KVM_EXIT_IO_OUT,
                                        data + i * run.io.size)
        else:
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
        if reason == KVM_EXIT_SHUTDOWN:
            return "triple fault"
        if reason == KVM_EXIT_SYSTEM_EVENT:
            return f"KVM system event {run.system_event.type}"
        return f"KVM exit reason {reason}, which this VMM does not expect"

    def get_regs(self):
        """General purpose registers by name."""
        cdef kvm_regs regs
        if ioctl(self.fd, KVM_GET_REGS, &regs) < 0:
            raise _failed("KVM_GET_REGS")
        return regs

    def set_regs(self, dict changes):
        """Set the named general purpose registers; the others keep their values."""
        cdef kvm_regs regs
        if ioctl(self.fd, KVM_GET_REGS, &regs) < 0:
            raise _failed("KVM_GET_REGS")
        merged = dict(regs)
        merged.update(changes)
        regs = merged
        if ioctl(self.fd, KVM_SET_REGS, &regs) < 0:
            raise _failed("KVM_SET_REGS")

    def get_sregs(self):
        """Segment, table and control registers by name."""
        cdef kvm_sregs sregs
        if ioctl(self.fd, KVM_GET_SREGS, &sregs) < 0:
            raise _failed("KVM_GET_SREGS")
        return {
            "cs": sregs.cs, "ds": sregs.ds, "es": sregs.es, "fs": sregs.fs, "gs": sregs.gs,
            "ss": sregs.ss, "tr": sregs.tr, "ldt": sregs.ldt, "gdt": sregs.gdt, "idt": sregs.idt,
            "cr0": sregs.cr0, "cr2": sregs.cr2, "cr3": sregs.cr3, "cr4": sregs.cr4,
            "cr8": sregs.cr8, "efer": sregs.efer, "apic_base": sregs.apic_base,
        }

    def set_sregs(self, dict values):
        """Set all registers that `get_sregs` returns; what the kernel keeps besides stays."""
        cdef kvm_sregs sregs
        if ioctl(self.fd, KVM_GET_SREGS, &sregs) < 0:
            raise _failed("KVM_GET_SREGS")
        sregs.cs = values["cs"]
        sregs.ds = values["ds"]
        sregs.es = values["es"]
        sregs.fs = values["fs"]
        sregs.gs = values["gs"]
        sregs.ss = values["ss"]
        sregs.tr = values["tr"]
        sregs.ldt = values["ldt"]
        sregs.gdt = values["gdt"]
        sregs.idt = values["idt"]
        sregs.cr0 = values["cr0"]
        sregs.cr2 = values["cr2"]
        sregs.cr3 = values["cr3"]
        sregs.cr4 = values["cr4"]
        sregs.cr8 = values["cr8"]
        sregs.efer = values["efer"]
        sregs.apic_base = values["apic_base"]
        if ioctl(self.fd, KVM_SET_SREGS, &sregs) < 0:
            raise _failed("KVM_SET_SREGS")

    def set_fpu(self, int fcw, uint32_t mxcsr):
        """Reset the floating point unit with the given control words."""
        cdef kvm_fpu fpu
        memset(&fpu, 0, sizeof(fpu))
        fpu.fcw = fcw
        fpu.mxcsr = mxcsr
        if ioctl(self.fd, KVM_SET_FPU, &fpu) < 0:
            raise _failed("KVM_SET_FPU")

    def set_msrs(self, list pairs):
        """Set (index, value) pairs; returns how many the kernel took before one it refused."""
        cdef Py_ssize_t count = len(pairs)
        cdef kvm_msrs *msrs = <kvm_msrs *>calloc(1, sizeof(kvm_msrs) + count * sizeof(kvm_msr_entry))
        cdef int done
        if msrs == NULL:
            raise MemoryError()
        try:
            msrs.nmsrs = <uint32_t>count
            for i, (index, value) in enumerate(pairs):
                msrs.entries[i].index = index
                msrs.entries[i].data = value
            done = ioctl(self.fd, KVM_SET_MSRS, msrs)
            if done < 0:
                raise _failed("KVM_SET_MSRS")
            return done
        finally:
            free(msrs)

    def set_cpuid(self, list entries):
        """Give the guest these CPUID entries (dicts as from Kvm.supported_cpuid)."""
        cdef Py_ssize_t count = len(entries)
        cdef kvm_cpuid2 *table = <kvm_cpuid2 *>calloc(
            1, sizeof(kvm_cpuid2) + count * sizeof(kvm_cpuid_entry2))
        if table == NULL:
            raise MemoryError()
        try:
            table.nent = <uint32_t>count
            for i, entry in enumerate(entries):
                table.entries[i] = entry
            if ioctl(self.fd, KVM_SET_CPUID2, table) < 0:
                raise _failed("KVM_SET_CPUID2")
        finally:
            free(table)

    def get_lapic(self):
        """The local APIC's register page, 1024 bytes."""
        cdef kvm_lapic_state lapic
        if ioctl(self.fd, KVM_GET_LAPIC, &lapic) < 0:
            raise _failed("KVM_GET_LAPIC")
        return bytearray((<char *>lapic.regs)[:sizeof(lapic.regs)])

    def set_lapic(self, const uint8_t[::1] page not None):
        """Set the local APIC's register page."""
        cdef kvm_lapic_state lapic
        if page.shape[0] != sizeof(lapic.regs):
            raise ValueError("a LAPIC page is 1024 bytes")
        memcpy(lapic.regs, &page[0], sizeof(lapic.regs))
        if ioctl(self.fd, KVM_SET_LAPIC, &lapic) < 0:
            raise _failed("KVM_SET_LAPIC")

    def note_paused(self):
        """Tell the guest's kvmclock that it was stopped, so its watchdogs stay calm."""
        # EINVAL: the guest has not set up kvmclock yet and needs no telling.
        ioctl(self.fd, KVM_KVMCLOCK_CTRL, 0)


def prepare_vcpu_signals():
    """Install the kick signal's empty handler; once per process, before vCPU threads start."""
    cdef sigaction_t action
    memset(&action, 0, sizeof(action))
    action.sa_handler = _ignore
    if sigaction(SIGRTMIN, &action, NULL) < 0:
        raise _failed("sigaction")


def block_signals_in_this_thread():
    """Leave this thread only the kick and faults of its own; the main thread handles the rest."""
    cdef sigset_t mask
    sigfillset(&mask)
    sigdelset(&mask, SIGRTMIN)
    for number in (SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGSYS):
        sigdelset(&mask, number)
    pthread_sigmask(SIG_SETMASK, &mask, NULL)
