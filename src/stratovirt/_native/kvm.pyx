"""KVM on every architecture: the device /dev/kvm, and a machine's memory, interrupts and doorbells.

This is the border between Python and the kernel's ABI: a failed ioctl becomes an OSError that
names it, a struct becomes a dict with the kernel's field names.  A module named after an
architecture derives its classes from these.  Whatever is used after its `close` raises OSError.
"""

from libc.stdint cimport int32_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from posix.unistd cimport close

from stratovirt._native.guest_memory cimport GuestMemory
from stratovirt._native.kernel cimport call_error, failed, ioctl
from stratovirt._native.kvm_abi cimport *
from stratovirt._native.kvm_dirty_log cimport has_clear, move_dirty

import os

API_VERSION = KVM_API_VERSION
"""The version of the kernel's interface that this is built for."""


cdef int check_extension(int fd, unsigned long capability) except -1:
    cdef int value = ioctl(fd, KVM_CHECK_EXTENSION, capability)
    if value < 0:
        raise failed("KVM_CHECK_EXTENSION")
    return value


cdef class Kvm:
    """The ``/dev/kvm`` device. Raises OSError when it cannot be opened."""

    def __cinit__(self, str path="/dev/kvm"):
        self.fd = -1
        self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def __dealloc__(self):
        self.close()

    def close(self):
        """Close the device; machines that it made stay.  Later calls change nothing."""
        # 0 is that of an object whose constructor was not reached.
        if self.fd > 0:
            close(self.fd)
        self.fd = -1

    @property
    def api_version(self):
        """The version of the kernel's interface, API_VERSION; -1 for a file that is not KVM's."""
        cdef int version = ioctl(self.fd, KVM_GET_API_VERSION, 0)
        if self.fd < 0:
            raise failed("KVM_GET_API_VERSION")
        return version

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
        return [name for name, cap in needed.items() if check_extension(self.fd, cap) == 0]


cdef class KvmVm:
    """One machine in the kernel, new and empty."""

    def __cinit__(self, Kvm system not None):
        self.fd = -1
        self._system = system
        self._msi_flags = -1
        self.fd = ioctl(system.fd, KVM_CREATE_VM, 0)
        if self.fd < 0:
            raise failed("KVM_CREATE_VM")

    def __dealloc__(self):
        self.close()

    def close(self):
        """Close the machine; it is gone when its vCPUs are closed, too.  May be called again."""
        # 0 is that of an object whose constructor was not reached.
        if self.fd > 0:
            close(self.fd)
        self.fd = -1

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
        """Drive the line of a GSI of the board."""
        cdef kvm_irq_level line
        line.irq = self.line_number(gsi)
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
        """Make GSIs send messages: (address, data, requester) by GSI, all of them above the lines.

        `requester` is the device id of the sender; the kernel is told to heed it where its
        interrupt controller translates by it.  The lines of the interrupt controllers stay as the
        kernel has them at first.
        """
        cdef Py_ssize_t count = self.line_routes(NULL) + len(messages)
        cdef kvm_irq_routing *table = <kvm_irq_routing *>calloc(
            1, sizeof(kvm_irq_routing) + count * sizeof(kvm_irq_routing_entry))
        cdef kvm_irq_routing_entry *entry
        if table == NULL:
            raise MemoryError()
        try:
            if self._msi_flags < 0:
                # Asked of the machine: the answer depends on the interrupt controllers it has.
                self._msi_flags = (
                    KVM_MSI_VALID_DEVID if check_extension(self.fd, KVM_CAP_MSI_DEVID) else 0)
            entry = table.entries + self.line_routes(table.entries)
            for gsi, (address, data, requester) in messages.items():
                entry.type = KVM_IRQ_ROUTING_MSI
                entry.gsi = gsi
                entry.flags = <uint32_t>self._msi_flags
                entry.u.msi.address_lo = address & 0xFFFFFFFF
                entry.u.msi.address_hi = address >> 32
                entry.u.msi.data = data
                entry.u.msi.devid = requester
                entry += 1
            table.nr = <uint32_t>count
            if ioctl(self.fd, KVM_SET_GSI_ROUTING, table) < 0:
                raise failed("KVM_SET_GSI_ROUTING")
        finally:
            free(table)

    cdef int line_routes(self, kvm_irq_routing_entry *entries) noexcept:
        return 0

    cdef uint32_t line_number(self, uint32_t gsi) noexcept:
        return gsi

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
