# What x86_64 adds to KVM; the kernel's own header is the source of every number and struct.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "linux/kvm.h" nogil:
    unsigned long KVM_CREATE_IRQCHIP, KVM_CREATE_PIT2, KVM_SET_TSS_ADDR, KVM_SET_IDENTITY_MAP_ADDR
    unsigned long KVM_GET_SUPPORTED_CPUID, KVM_SET_CPUID2, KVM_KVMCLOCK_CTRL
    unsigned long KVM_GET_REGS, KVM_SET_REGS, KVM_GET_SREGS, KVM_SET_SREGS, KVM_SET_FPU
    unsigned long KVM_GET_XSAVE, KVM_SET_XSAVE, KVM_GET_XCRS, KVM_SET_XCRS
    unsigned long KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS, KVM_GET_LAPIC, KVM_SET_LAPIC
    unsigned long KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, KVM_GET_MP_STATE, KVM_SET_MP_STATE
    unsigned long KVM_GET_MSRS, KVM_SET_MSRS, KVM_GET_MSR_INDEX_LIST
    unsigned long KVM_GET_IRQCHIP, KVM_SET_IRQCHIP, KVM_GET_PIT2, KVM_SET_PIT2
    unsigned long KVM_GET_CLOCK, KVM_SET_CLOCK, KVM_GET_TSC_KHZ, KVM_SET_TSC_KHZ
    unsigned long KVM_GET_NESTED_STATE, KVM_SET_NESTED_STATE
    int KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC, KVM_IOAPIC_NUM_PINS
    int KVM_CAP_TSC_DEADLINE_TIMER, KVM_CAP_PIT2, KVM_CAP_NESTED_STATE
    int KVM_PIT_SPEAKER_DUMMY

    struct kvm_pit_config:
        uint32_t flags
    struct kvm_cpuid_entry2:
        uint32_t function, index, flags, eax, ebx, ecx, edx
    struct kvm_cpuid2:
        uint32_t nent
        kvm_cpuid_entry2 entries[0]
    struct kvm_msr_entry:
        uint32_t index
        uint64_t data
    struct kvm_msrs:
        uint32_t nmsrs
        kvm_msr_entry entries[0]
    struct kvm_regs:
        uint64_t rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15
        uint64_t rip, rflags
    struct kvm_segment:
        uint64_t base
        uint32_t limit
        uint16_t selector
        uint8_t type, present, dpl, db, s, l, g, avl, unusable
    struct kvm_dtable:
        uint64_t base
        uint16_t limit
    struct kvm_sregs:
        kvm_segment cs, ds, es, fs, gs, ss, tr, ldt
        kvm_dtable gdt, idt
        uint64_t cr0, cr2, cr3, cr4, cr8, efer, apic_base
    struct kvm_fpu:
        uint16_t fcw
        uint32_t mxcsr
    struct kvm_lapic_state:
        char regs[0x400]
    struct kvm_xsave:
        pass
    struct kvm_xcrs:
        pass
    struct kvm_debugregs:
        pass
    struct kvm_vcpu_events:
        pass
    struct kvm_mp_state:
        pass
    struct kvm_pit_state2:
        pass
    struct kvm_irqchip:
        uint32_t chip_id
    struct kvm_clock_data:
        uint64_t clock
    struct kvm_nested_state:
        uint32_t size
    struct kvm_msr_list:
        uint32_t nmsrs
        uint32_t indices[0]
