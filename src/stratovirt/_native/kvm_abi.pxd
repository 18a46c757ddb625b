# The kernel's own header is the source of every number and struct here.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "linux/kvm.h" nogil:
    unsigned long KVM_GET_API_VERSION, KVM_CREATE_VM, KVM_CHECK_EXTENSION, KVM_GET_VCPU_MMAP_SIZE
    unsigned long KVM_CREATE_VCPU, KVM_SET_USER_MEMORY_REGION, KVM_RUN
    unsigned long KVM_CREATE_IRQCHIP, KVM_CREATE_PIT2, KVM_IRQ_LINE, KVM_IRQFD, KVM_IOEVENTFD
    unsigned long KVM_SET_TSS_ADDR, KVM_SET_IDENTITY_MAP_ADDR, KVM_GET_SUPPORTED_CPUID
    unsigned long KVM_SET_CPUID2, KVM_GET_REGS, KVM_SET_REGS, KVM_GET_SREGS, KVM_SET_SREGS
    unsigned long KVM_SET_FPU, KVM_SET_MSRS, KVM_GET_LAPIC, KVM_SET_LAPIC, KVM_KVMCLOCK_CTRL
    unsigned long KVM_SET_GSI_ROUTING
    int KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI
    int KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC, KVM_IOAPIC_NUM_PINS
    int KVM_API_VERSION
    int KVM_CAP_IRQCHIP, KVM_CAP_IRQFD, KVM_CAP_IOEVENTFD, KVM_CAP_IMMEDIATE_EXIT
    int KVM_CAP_USER_MEMORY, KVM_CAP_TSC_DEADLINE_TIMER, KVM_CAP_PIT2
    int KVM_CAP_KVMCLOCK_CTRL, KVM_CAP_IRQ_ROUTING, KVM_CAP_READONLY_MEM
    int KVM_MEM_READONLY, KVM_MEM_LOG_DIRTY_PAGES
    int KVM_PIT_SPEAKER_DUMMY
    int KVM_IRQFD_FLAG_DEASSIGN, KVM_IRQFD_FLAG_RESAMPLE
    unsigned long KVM_CREATE_DEVICE, KVM_SET_DEVICE_ATTR
    uint32_t KVM_DEV_TYPE_VFIO, KVM_DEV_VFIO_GROUP
    uint64_t KVM_DEV_VFIO_GROUP_ADD, KVM_DEV_VFIO_GROUP_DEL
    int KVM_IOEVENTFD_FLAG_DATAMATCH, KVM_IOEVENTFD_FLAG_PIO, KVM_IOEVENTFD_FLAG_DEASSIGN
    int KVM_CPUID_FLAG_SIGNIFCANT_INDEX

    int KVM_EXIT_UNKNOWN, KVM_EXIT_EXCEPTION, KVM_EXIT_IO, KVM_EXIT_HYPERCALL, KVM_EXIT_DEBUG
    int KVM_EXIT_HLT, KVM_EXIT_MMIO, KVM_EXIT_IRQ_WINDOW_OPEN, KVM_EXIT_SHUTDOWN
    int KVM_EXIT_FAIL_ENTRY, KVM_EXIT_INTR, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_SYSTEM_EVENT
    int KVM_EXIT_IO_OUT

    struct kvm_userspace_memory_region:
        uint32_t slot, flags
        uint64_t guest_phys_addr, memory_size, userspace_addr
    struct kvm_pit_config:
        uint32_t flags
    struct kvm_irq_level:
        uint32_t irq, level
    struct kvm_irqfd:
        uint32_t fd, gsi, flags, resamplefd
    struct kvm_create_device:
        uint32_t type, fd, flags
    struct kvm_device_attr:
        uint32_t flags, group
        uint64_t attr, addr
    struct kvm_irq_routing_irqchip "":
        uint32_t irqchip, pin
    struct kvm_irq_routing_msi "":
        uint32_t address_lo, address_hi, data
    union kvm_irq_routing_union "":
        kvm_irq_routing_irqchip irqchip
        kvm_irq_routing_msi msi
    struct kvm_irq_routing_entry:
        uint32_t gsi, type, flags
        kvm_irq_routing_union u
    struct kvm_irq_routing:
        uint32_t nr, flags
        kvm_irq_routing_entry entries[0]
    struct kvm_ioeventfd:
        uint64_t datamatch, addr
        uint32_t len
        int32_t fd
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

    # The anonymous unions of struct kvm_run, as far as exits are handled here.
    struct kvm_run_io "":
        uint8_t direction, size
        uint16_t port
        uint32_t count
        uint64_t data_offset
    struct kvm_run_mmio "":
        uint64_t phys_addr
        uint8_t data[8]
        uint32_t len
        uint8_t is_write
    struct kvm_run_fail_entry "":
        uint64_t hardware_entry_failure_reason
    struct kvm_run_internal "":
        uint32_t suberror, ndata
        uint64_t data[16]
    struct kvm_run_system_event "":
        uint32_t type
    struct kvm_run:
        uint8_t immediate_exit
        uint32_t exit_reason
        kvm_run_io io
        kvm_run_mmio mmio
        kvm_run_fail_entry fail_entry
        kvm_run_internal internal
        kvm_run_system_event system_event
