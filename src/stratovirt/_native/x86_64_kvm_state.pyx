"""The state of x86_64 vCPUs and interrupt controllers, as the kernel's structs in bytes.

What is saved can be put back: into the same machine for a reset, into a new one for a restore.
The structs are the kernel's stable ABI, so their bytes are a format.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from stratovirt._native.kernel cimport failed, ioctl
from stratovirt._native.kvm cimport check_extension
from stratovirt._native.x86_64_kvm_abi cimport *

cdef enum:
    LARGEST_STRUCT = 4096  # kvm_xsave, by far
    MOST_MSRS = 1024

# In the order in which they are put back: the APIC's base before the APIC, the mode before the
# registers, and pending events last.
PARTS = {
    "mp_state": (KVM_GET_MP_STATE, KVM_SET_MP_STATE, sizeof(kvm_mp_state)),
    "sregs": (KVM_GET_SREGS, KVM_SET_SREGS, sizeof(kvm_sregs)),
    "regs": (KVM_GET_REGS, KVM_SET_REGS, sizeof(kvm_regs)),
    "xsave": (KVM_GET_XSAVE, KVM_SET_XSAVE, sizeof(kvm_xsave)),
    "xcrs": (KVM_GET_XCRS, KVM_SET_XCRS, sizeof(kvm_xcrs)),
    "debugregs": (KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS, sizeof(kvm_debugregs)),
    "lapic": (KVM_GET_LAPIC, KVM_SET_LAPIC, sizeof(kvm_lapic_state)),
    "vcpu_events": (KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, sizeof(kvm_vcpu_events)),
}
CHIPS = {
    "pic_master": KVM_IRQCHIP_PIC_MASTER,
    "pic_slave": KVM_IRQCHIP_PIC_SLAVE,
    "ioapic": KVM_IRQCHIP_IOAPIC,
}
IOCTLS = (
    *(request for get, put, _ in PARTS.values() for request in (get, put)),
    KVM_GET_MSRS, KVM_SET_MSRS, KVM_GET_MSR_INDEX_LIST, KVM_GET_IRQCHIP, KVM_SET_IRQCHIP,
    KVM_GET_PIT2, KVM_SET_PIT2, KVM_GET_NESTED_STATE, KVM_SET_NESTED_STATE,
    KVM_GET_CLOCK, KVM_SET_CLOCK, KVM_GET_TSC_KHZ, KVM_SET_TSC_KHZ,
)
"""The requests made here: for a reset, and for the state that a snapshot has."""


cdef bytes _get(int fd, str name, unsigned long request, size_t size):
    cdef char content[LARGEST_STRUCT]
    # The kernel fills some structs in part, and what it leaves must not be our stack.
    memset(content, 0, sizeof(content))
    if ioctl(fd, request, content) < 0:
        raise failed(f"reading {name}")
    return content[:size]


cdef _set(int fd, str name, unsigned long request, bytes content, size_t size):
    cdef char copy[LARGEST_STRUCT]
    if <size_t>len(content) != size:
        raise ValueError(f"{name} has {len(content)} bytes, not {size}")
    memcpy(copy, <char *>content, size)
    if ioctl(fd, request, copy) < 0:
        raise failed(f"writing {name}")


def msr_indices(int kvm_fd):
    """The model specific registers that make up a vCPU's state on this kernel."""
    cdef kvm_msr_list *table = <kvm_msr_list *>calloc(
        1, sizeof(kvm_msr_list) + MOST_MSRS * sizeof(uint32_t))
    if table == NULL:
        raise MemoryError()
    try:
        table.nmsrs = MOST_MSRS
        if ioctl(kvm_fd, KVM_GET_MSR_INDEX_LIST, table) < 0:
            raise failed("KVM_GET_MSR_INDEX_LIST")
        return [table.indices[i] for i in range(table.nmsrs)]
    finally:
        free(table)


cdef _msrs(int vcpu_fd, unsigned long request, kvm_msrs *table, list pairs):
    """Read or write MSRs in `pairs`, (index, value); returns those done, with their values.

    The kernel stops at the first that it refuses; that one is skipped.
    """
    cdef Py_ssize_t at = 0, count, done, i
    finished = []
    while at < len(pairs):
        count = min(len(pairs) - at, <Py_ssize_t>MOST_MSRS)
        table.nmsrs = <uint32_t>count
        for i in range(count):
            table.entries[i].index, table.entries[i].data = pairs[at + i]
        done = ioctl(vcpu_fd, request, table)
        if done < 0:
            raise failed("KVM_GET_MSRS or KVM_SET_MSRS")
        for i in range(done):
            finished.append((table.entries[i].index, table.entries[i].data))
        at += done + (1 if done < count else 0)
    return dict(finished)


cdef _with_table(int vcpu_fd, unsigned long request, list pairs):
    cdef kvm_msrs *table = <kvm_msrs *>calloc(1, sizeof(kvm_msrs) + MOST_MSRS * sizeof(kvm_msr_entry))
    if table == NULL:
        raise MemoryError()
    try:
        return _msrs(vcpu_fd, request, table, pairs)
    finally:
        free(table)


def save_msrs(int vcpu_fd, indices not None):
    """The values of the given MSRs by index; those that this vCPU does not have are left out."""
    return _with_table(vcpu_fd, KVM_GET_MSRS, [(index, 0) for index in indices])


def restore_msrs(int vcpu_fd, dict values not None):
    """Set MSRs; returns the indices of those that the kernel did not take."""
    done = _with_table(vcpu_fd, KVM_SET_MSRS, list(values.items()))
    return [index for index in values if index not in done]


def save_vcpu(int vcpu_fd):
    """Every part of a vCPU but its MSRs, by name. The vCPU must not be running."""
    # Reading these two lets the kernel finish a startup IPI and deliver what an exception leaves
    # in CR2 and DR6, so the registers come after them.
    order = dict.fromkeys(("mp_state", "vcpu_events", *PARTS))
    return {name: _get(vcpu_fd, name, PARTS[name][0], PARTS[name][2]) for name in order}


def restore_vcpu(int vcpu_fd, dict state not None):
    """Put back what `save_vcpu` gave; raises OSError or ValueError."""
    for name, (_, put, size) in PARTS.items():
        _set(vcpu_fd, name, put, state[name], size)


def save_chips(int vm_fd):
    """PIC, IOAPIC and PIT, by name."""
    cdef kvm_irqchip chip
    state = {}
    for name, number in CHIPS.items():
        memset(&chip, 0, sizeof(chip))
        chip.chip_id = number
        if ioctl(vm_fd, KVM_GET_IRQCHIP, &chip) < 0:
            raise failed(f"reading {name}")
        state[name] = (<char *>&chip)[:sizeof(chip)]
    state["pit"] = _get(vm_fd, "pit", KVM_GET_PIT2, sizeof(kvm_pit_state2))
    return state


def restore_chips(int vm_fd, dict state not None):
    """Put back what `save_chips` gave; raises OSError or ValueError."""
    for name in CHIPS:
        _set(vm_fd, name, KVM_SET_IRQCHIP, state[name], sizeof(kvm_irqchip))
    _set(vm_fd, "pit", KVM_SET_PIT2, state["pit"], sizeof(kvm_pit_state2))


def nested_state_size(int kvm_fd):
    """Bytes of a vCPU's state as a hypervisor, 0 where guests cannot be one."""
    return check_extension(kvm_fd, KVM_CAP_NESTED_STATE)


def save_nested(int vcpu_fd, uint32_t size):
    """struct kvm_nested_state, `size` bytes or fewer."""
    cdef kvm_nested_state *state = <kvm_nested_state *>calloc(1, size)
    if state == NULL:
        raise MemoryError()
    try:
        state.size = size
        if ioctl(vcpu_fd, KVM_GET_NESTED_STATE, state) < 0:
            raise failed("reading nested_state")
        return (<char *>state)[:min(state.size, size)]
    finally:
        free(state)


def restore_nested(int vcpu_fd, bytes content not None):
    """Put back what `save_nested` gave; raises OSError or ValueError."""
    cdef kvm_nested_state *state = <kvm_nested_state *><char *>content
    if <size_t>len(content) < sizeof(kvm_nested_state) or state.size > <size_t>len(content):
        raise ValueError("nested_state is damaged")
    if ioctl(vcpu_fd, KVM_SET_NESTED_STATE, <char *>content) < 0:
        raise failed("writing nested_state")


def clock_ns(int vm_fd):
    """What the guest's kvmclock shows, in ns."""
    cdef kvm_clock_data data
    memset(&data, 0, sizeof(data))
    if ioctl(vm_fd, KVM_GET_CLOCK, &data) < 0:
        raise failed("KVM_GET_CLOCK")
    return data.clock


def set_clock_ns(int vm_fd, uint64_t now_ns):
    """Let the guest's kvmclock go on from `now_ns`."""
    cdef kvm_clock_data data
    memset(&data, 0, sizeof(data))
    data.clock = now_ns
    if ioctl(vm_fd, KVM_SET_CLOCK, &data) < 0:
        raise failed("KVM_SET_CLOCK")


def tsc_khz(int vcpu_fd):
    """The rate of the vCPU's time stamp counter."""
    cdef int rate = ioctl(vcpu_fd, KVM_GET_TSC_KHZ, 0)
    if rate < 0:
        raise failed("KVM_GET_TSC_KHZ")
    return rate


def set_tsc_khz(int vcpu_fd, uint32_t rate):
    """Have the hardware scale the vCPU's time stamp counter; raises OSError when it cannot."""
    if ioctl(vcpu_fd, KVM_SET_TSC_KHZ, <unsigned long>rate) < 0:
        raise failed("KVM_SET_TSC_KHZ")
