# KVM on every architecture; a module of an architecture derives its classes from these.
from libc.stdint cimport uint32_t

from stratovirt._native.kvm_abi cimport kvm_irq_routing_entry

cdef class Kvm:
    cdef readonly int fd
    cdef list lacking(self, dict needed)

cdef class KvmVm:
    cdef readonly int fd
    cdef Kvm _system
    cdef int _msi_flags          # of each message's route; negative until the first is made
    # The routes of the interrupt controllers' own lines, as the kernel has them at first; returns
    # how many there are, and with NULL only that.
    cdef int line_routes(self, kvm_irq_routing_entry *entries) noexcept
    # The number of a GSI's line in KVM_IRQ_LINE: the GSI itself, or the architecture's encoding.
    cdef uint32_t line_number(self, uint32_t gsi) noexcept

# What the kernel answers for a capability, 0 when it lacks it; raises OSError.
cdef int check_extension(int fd, unsigned long capability) except -1
