# KVM on every architecture; the kernel's own header is the source of every number and struct.
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "linux/kvm.h" nogil:
    int KVM_API_VERSION
    unsigned long KVM_GET_API_VERSION, KVM_CREATE_VM, KVM_CHECK_EXTENSION, KVM_GET_VCPU_MMAP_SIZE
    unsigned long KVM_CREATE_VCPU, KVM_SET_USER_MEMORY_REGION, KVM_RUN
    unsigned long KVM_IRQ_LINE, KVM_IRQFD, KVM_IOEVENTFD, KVM_SET_GSI_ROUTING
    unsigned long KVM_ENABLE_CAP, KVM_GET_DIRTY_LOG, KVM_CLEAR_DIRTY_LOG
    unsigned long KVM_CREATE_DEVICE, KVM_SET_DEVICE_ATTR
    int KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_MSI_VALID_DEVID
    int KVM_CAP_IRQCHIP, KVM_CAP_IRQFD, KVM_CAP_IOEVENTFD, KVM_CAP_IMMEDIATE_EXIT
    int KVM_CAP_USER_MEMORY, KVM_CAP_IRQ_ROUTING, KVM_CAP_READONLY_MEM, KVM_CAP_MSI_DEVID
    int KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE
    int KVM_MEM_READONLY, KVM_MEM_LOG_DIRTY_PAGES
    int KVM_IRQFD_FLAG_DEASSIGN, KVM_IRQFD_FLAG_RESAMPLE
    uint32_t KVM_DEV_TYPE_VFIO, KVM_DEV_VFIO_GROUP
    uint64_t KVM_DEV_VFIO_GROUP_ADD, KVM_DEV_VFIO_GROUP_DEL
    int KVM_IOEVENTFD_FLAG_DATAMATCH, KVM_IOEVENTFD_FLAG_DEASSIGN

    int KVM_EXIT_IO, KVM_EXIT_HLT, KVM_EXIT_MMIO, KVM_EXIT_SHUTDOWN, KVM_EXIT_FAIL_ENTRY
    int KVM_EXIT_INTR, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_SYSTEM_EVENT
    int KVM_EXIT_IO_OUT
    int KVM_SYSTEM_EVENT_SHUTDOWN, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_CRASH
    int KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_SIMUL_EX
    int KVM_INTERNAL_ERROR_DELIVERY_EV, KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON

    struct kvm_userspace_memory_region:
        uint32_t slot, flags
        uint64_t guest_phys_addr, memory_size, userspace_addr
    struct kvm_enable_cap:
        uint32_t cap
        uint64_t args[4]
    struct kvm_dirty_log:
        uint32_t slot
        void *dirty_bitmap
    struct kvm_clear_dirty_log:
        uint32_t slot, num_pages
        uint64_t first_page
        void *dirty_bitmap
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
        uint32_t address_lo, address_hi, data, devid
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
