# What x86_64 adds to KVM; the kernel's own header is the source of every number and struct.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "linux/kvm.h" nogil:
    unsigned long KVM_CREATE_IRQCHIP, KVM_CREATE_PIT2, KVM_SET_TSS_ADDR, KVM_SET_IDENTITY_MAP_ADDR
    unsigned long KVM_GET_SUPPORTED_CPUID, KVM_SET_CPUID2, KVM_KVMCLOCK_CTRL
    unsigned long KVM_GET_REGS, KVM_SET_REGS, KVM_GET_SREGS, KVM_SET_SREGS, KVM_SET_FPU
    unsigned long KVM_SET_MSRS, KVM_GET_LAPIC, KVM_SET_LAPIC
    int KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC, KVM_IOAPIC_NUM_PINS
    int KVM_CAP_TSC_DEADLINE_TIMER, KVM_CAP_PIT2
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
