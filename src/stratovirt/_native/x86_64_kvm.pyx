"""What x86_64 adds to KVM: interrupt controllers, CPUID, registers, and exits of I/O ports."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from stratovirt._native.dispatch cimport PIO
from stratovirt._native.kernel cimport failed, ioctl
from stratovirt._native.kvm cimport Kvm, KvmVm, check_extension
from stratovirt._native.kvm_abi cimport *
from stratovirt._native.kvm_vcpu cimport ANSWERED, ASKS_PYTHON, IS_UNHANDLED, KvmVcpu, Outcome
from stratovirt._native.trace cimport TraceEvent
from stratovirt._native.x86_64_kvm_abi cimport *

from stratovirt._native import trace_events

cdef extern from "cpuid.h" nogil:
    void __cpuid_count(uint32_t leaf, uint32_t subleaf, uint32_t eax, uint32_t ebx, uint32_t ecx,
                       uint32_t edx)

cdef enum:
    MAX_CPUID_ENTRIES = 256  # KVM_MAX_CPUID_ENTRIES in the kernel
    PIC_PINS = 16

IOAPIC_PINS = KVM_IOAPIC_NUM_PINS
"""The lines of the IOAPIC, whose GSIs are 0 to one less."""

IOCTLS = (
    KVM_CREATE_IRQCHIP, KVM_CREATE_PIT2, KVM_SET_IDENTITY_MAP_ADDR, KVM_SET_TSS_ADDR,
    KVM_GET_SUPPORTED_CPUID, KVM_SET_CPUID2, KVM_SET_FPU, KVM_SET_MSRS, KVM_GET_REGS, KVM_SET_REGS,
    KVM_GET_SREGS, KVM_SET_SREGS, KVM_GET_LAPIC, KVM_SET_LAPIC, KVM_KVMCLOCK_CTRL,
)
"""The requests made here, also while the machine runs: a reset makes a twin machine."""

cdef TraceEvent io_python = trace_events.IO_PYTHON


def cpuid(uint32_t leaf, uint32_t subleaf=0):
    """(eax, ebx, ecx, edx) of a leaf that the host's CPU has, in this thread."""
    cdef uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0
    __cpuid_count(leaf, subleaf, eax, ebx, ecx, edx)
    return eax, ebx, ecx, edx


cdef class X8664Kvm(Kvm):
    """The ``/dev/kvm`` device of an x86_64 host."""

    def missing_capabilities(self):
        """Names of the capabilities this VMM needs and the kernel lacks."""
        return Kvm.missing_capabilities(self) + self.lacking({"KVM_CAP_PIT2": KVM_CAP_PIT2})

    def has_tsc_deadline_timer(self):
        """Whether the in-kernel LAPIC offers TSC-deadline mode."""
        return check_extension(self.fd, KVM_CAP_TSC_DEADLINE_TIMER) > 0

    def supported_cpuid(self):
        """The CPUID entries the kernel can give a guest, as dicts."""
        cdef kvm_cpuid2 *table = <kvm_cpuid2 *>calloc(
            1, sizeof(kvm_cpuid2) + MAX_CPUID_ENTRIES * sizeof(kvm_cpuid_entry2))
        if table == NULL:
            raise MemoryError()
        try:
            table.nent = MAX_CPUID_ENTRIES
            if ioctl(self.fd, KVM_GET_SUPPORTED_CPUID, table) < 0:
                raise failed("KVM_GET_SUPPORTED_CPUID")
            return [table.entries[i] for i in range(table.nent)]
        finally:
            free(table)


cdef class X8664Vm(KvmVm):
    """One machine in the kernel, with a PC's interrupt controllers."""

    def create_irqchip(self, uint64_t identity_map, uint64_t tss):
        """Create PIC, IOAPIC and LAPICs in the kernel, with the pages Intel's VMX needs."""
        if ioctl(self.fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map) < 0:
            raise failed("KVM_SET_IDENTITY_MAP_ADDR")
        if ioctl(self.fd, KVM_SET_TSS_ADDR, <unsigned long>tss) < 0:
            raise failed("KVM_SET_TSS_ADDR")
        if ioctl(self.fd, KVM_CREATE_IRQCHIP, 0) < 0:
            raise failed("KVM_CREATE_IRQCHIP")

    def create_pit(self):
        """Create the i8254 timer in the kernel; port 0x61 is answered there too."""
        cdef kvm_pit_config config
        memset(&config, 0, sizeof(config))
        config.flags = KVM_PIT_SPEAKER_DUMMY
        if ioctl(self.fd, KVM_CREATE_PIT2, &config) < 0:
            raise failed("KVM_CREATE_PIT2")

    cdef int line_routes(self, kvm_irq_routing_entry *entry) noexcept:
        cdef int pin
        if entry != NULL:
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
        return KVM_IOAPIC_NUM_PINS + PIC_PINS


cdef class X8664Vcpu(KvmVcpu):
    """One vCPU with its registers, and the exits of I/O ports."""

    cdef Outcome take_exit(self) noexcept nogil:
        cdef kvm_run *run = self._run
        cdef uint8_t *data
        cdef uint32_t i
        if run.exit_reason != KVM_EXIT_IO:
            return IS_UNHANDLED
        data = <uint8_t *>run + run.io.data_offset
        i = 0
        while i < run.io.count:
            if not self._dispatcher.access_native(
                    PIO, run.io.port, run.io.size,
                    run.io.direction == KVM_EXIT_IO_OUT, data + i * run.io.size):
                # `answer` starts over, which is right only when nothing was done yet: a string
                # access stays on one port, so it is Python's from the start.
                return ASKS_PYTHON
            i += 1
        return ANSWERED

    cdef int answer(self) except -1:
        cdef kvm_run *run = self._run
        cdef uint8_t *data
        cdef uint32_t i
        if run.exit_reason != KVM_EXIT_IO:
            return KvmVcpu.answer(self)
        if io_python.enabled:
            io_python.report(1, run.io.port, run.io.size, run.io.direction)
        data = <uint8_t *>run + run.io.data_offset
        for i in range(run.io.count):
            self._dispatcher.access(PIO, run.io.port, run.io.size,
                                    run.io.direction == KVM_EXIT_IO_OUT,
                                    data + i * run.io.size)
        return 0

    def describe_exit(self):
        """The last exit in words, for the log line."""
        self._check_open()
        if self._run.exit_reason == KVM_EXIT_SHUTDOWN:
            return "triple fault"
        return KvmVcpu.describe_exit(self)

    def get_regs(self):
        """General purpose registers by name."""
        cdef kvm_regs regs
        if ioctl(self.fd, KVM_GET_REGS, &regs) < 0:
            raise failed("KVM_GET_REGS")
        return regs

    def set_regs(self, dict changes):
        """Set the named general purpose registers; the others keep their values."""
        cdef kvm_regs regs
        if ioctl(self.fd, KVM_GET_REGS, &regs) < 0:
            raise failed("KVM_GET_REGS")
        merged = dict(regs)
        merged.update(changes)
        regs = merged
        if ioctl(self.fd, KVM_SET_REGS, &regs) < 0:
            raise failed("KVM_SET_REGS")

    def get_sregs(self):
        """Segment, table and control registers by name."""
        cdef kvm_sregs sregs
        if ioctl(self.fd, KVM_GET_SREGS, &sregs) < 0:
            raise failed("KVM_GET_SREGS")
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
            raise failed("KVM_GET_SREGS")
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
            raise failed("KVM_SET_SREGS")

    def set_fpu(self, int fcw, uint32_t mxcsr):
        """Reset the floating point unit with the given control words."""
        cdef kvm_fpu fpu
        memset(&fpu, 0, sizeof(fpu))
        fpu.fcw = fcw
        fpu.mxcsr = mxcsr
        if ioctl(self.fd, KVM_SET_FPU, &fpu) < 0:
            raise failed("KVM_SET_FPU")

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
                raise failed("KVM_SET_MSRS")
            return done
        finally:
            free(msrs)

    def set_cpuid(self, list entries):
        """Give the guest these CPUID entries (dicts as from X8664Kvm.supported_cpuid)."""
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
                raise failed("KVM_SET_CPUID2")
        finally:
            free(table)

    def get_lapic(self):
        """The local APIC's register page, 1024 bytes."""
        cdef kvm_lapic_state lapic
        if ioctl(self.fd, KVM_GET_LAPIC, &lapic) < 0:
            raise failed("KVM_GET_LAPIC")
        return bytearray((<char *>lapic.regs)[:sizeof(lapic.regs)])

    def set_lapic(self, const uint8_t[::1] page not None):
        """Set the local APIC's register page."""
        cdef kvm_lapic_state lapic
        if page.shape[0] != sizeof(lapic.regs):
            raise ValueError("a LAPIC page is 1024 bytes")
        memcpy(lapic.regs, &page[0], sizeof(lapic.regs))
        if ioctl(self.fd, KVM_SET_LAPIC, &lapic) < 0:
            raise failed("KVM_SET_LAPIC")

    def note_paused(self):
        """Tell the guest's kvmclock that it was stopped, so its watchdogs stay calm."""
        # EINVAL: the guest has not set up kvmclock yet and needs no telling.
        ioctl(self.fd, KVM_KVMCLOCK_CTRL, 0)
