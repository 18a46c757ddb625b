"""VFIO: ioctls on containers, groups and devices (Linux's Documentation/driver-api/vfio.rst).

A failed ioctl is an OSError that names it.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free

from stratovirt._native.kernel cimport failed, ioctl

import os

cdef extern from "sys/mman.h" nogil:
    void *mmap(void *addr, size_t length, int prot, int flags, int fd, long offset)
    int munmap(void *addr, size_t length)
    int PROT_READ, PROT_WRITE, MAP_SHARED
    void *MAP_FAILED

cdef extern from "linux/vfio.h" nogil:
    unsigned long VFIO_GET_API_VERSION, VFIO_CHECK_EXTENSION, VFIO_SET_IOMMU
    unsigned long VFIO_GROUP_GET_STATUS, VFIO_GROUP_SET_CONTAINER, VFIO_GROUP_UNSET_CONTAINER
    unsigned long VFIO_GROUP_GET_DEVICE_FD, VFIO_DEVICE_GET_INFO, VFIO_DEVICE_GET_REGION_INFO
    unsigned long VFIO_DEVICE_GET_IRQ_INFO, VFIO_DEVICE_SET_IRQS, VFIO_DEVICE_RESET
    unsigned long VFIO_IOMMU_MAP_DMA, VFIO_IOMMU_UNMAP_DMA
    int VFIO_API_VERSION, VFIO_TYPE1v2_IOMMU
    uint32_t VFIO_GROUP_FLAGS_VIABLE
    uint32_t VFIO_DEVICE_FLAGS_RESET, VFIO_DEVICE_FLAGS_PCI
    uint32_t VFIO_REGION_INFO_FLAG_READ, VFIO_REGION_INFO_FLAG_MMAP, VFIO_REGION_INFO_FLAG_CAPS
    uint32_t VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE
    uint32_t VFIO_IRQ_SET_DATA_NONE, VFIO_IRQ_SET_DATA_EVENTFD, VFIO_IRQ_SET_ACTION_TRIGGER
    uint32_t VFIO_IRQ_SET_ACTION_UNMASK
    int VFIO_REGION_INFO_CAP_SPARSE_MMAP
    int VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_ROM_REGION_INDEX
    int VFIO_PCI_INTX_IRQ_INDEX, VFIO_PCI_MSI_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX
    int VFIO_PCI_REQ_IRQ_INDEX

    struct vfio_group_status:
        uint32_t argsz, flags
    struct vfio_device_info:
        uint32_t argsz, flags, num_regions, num_irqs
    struct vfio_info_cap_header:
        uint32_t next
        int id
    struct vfio_region_info:
        uint32_t argsz, flags, index, cap_offset
        uint64_t size, offset
    struct vfio_region_sparse_mmap_area:
        uint64_t offset, size
    struct vfio_region_info_cap_sparse_mmap:
        vfio_info_cap_header header
        uint32_t nr_areas
        vfio_region_sparse_mmap_area areas[0]
    struct vfio_irq_info:
        uint32_t argsz, flags, index, count
    struct vfio_irq_set:
        uint32_t argsz, flags, index, start, count
        uint8_t data[0]
    struct vfio_iommu_type1_dma_map:
        uint32_t argsz, flags
        uint64_t vaddr, iova, size
    struct vfio_iommu_type1_dma_unmap:
        uint32_t argsz, flags
        uint64_t iova, size

CONFIG_REGION = VFIO_PCI_CONFIG_REGION_INDEX
ROM_REGION = VFIO_PCI_ROM_REGION_INDEX
INTX, MSI, MSIX = VFIO_PCI_INTX_IRQ_INDEX, VFIO_PCI_MSI_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX
RELEASE_REQUEST = VFIO_PCI_REQ_IRQ_INDEX


cdef class Container:
    """An IOMMU context with type 1 mappings; owns the descriptor."""

    cdef readonly int fd

    def __cinit__(self, int fd):
        self.fd = fd

    def check(self):
        """Why this kernel's VFIO cannot be used; None when it can."""
        if ioctl(self.fd, VFIO_GET_API_VERSION, 0) != VFIO_API_VERSION:
            return "the kernel speaks another version of VFIO"
        if ioctl(self.fd, VFIO_CHECK_EXTENSION, <unsigned long>VFIO_TYPE1v2_IOMMU) <= 0:
            return "the kernel has no type 1 IOMMU"
        return None

    def use_type1(self):
        """Choose the kind of IOMMU; after the first group has joined."""
        if ioctl(self.fd, VFIO_SET_IOMMU, <unsigned long>VFIO_TYPE1v2_IOMMU) < 0:
            raise failed("VFIO_SET_IOMMU")

    def map_dma(self, uint64_t iova, uint64_t size, uint64_t vaddr):
        """Let devices reach host memory at `vaddr` by address `iova`."""
        cdef vfio_iommu_type1_dma_map request
        request.argsz = sizeof(request)
        request.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE
        request.vaddr, request.iova, request.size = vaddr, iova, size
        if ioctl(self.fd, VFIO_IOMMU_MAP_DMA, &request) < 0:
            raise failed("VFIO_IOMMU_MAP_DMA")

    def unmap_dma(self, uint64_t iova, uint64_t size):
        """Undo `map_dma`."""
        cdef vfio_iommu_type1_dma_unmap request
        request.argsz, request.flags = sizeof(request), 0
        request.iova, request.size = iova, size
        if ioctl(self.fd, VFIO_IOMMU_UNMAP_DMA, &request) < 0:
            raise failed("VFIO_IOMMU_UNMAP_DMA")

    def close(self):
        """Give the descriptor back."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


cdef class Group:
    """Devices that the IOMMU cannot tell apart; owns the descriptor."""

    cdef readonly int fd

    def __cinit__(self, int fd):
        self.fd = fd

    @property
    def is_viable(self):
        """Whether all devices of the group are VFIO's or nobody's."""
        cdef vfio_group_status status
        status.argsz, status.flags = sizeof(status), 0
        if ioctl(self.fd, VFIO_GROUP_GET_STATUS, &status) < 0:
            raise failed("VFIO_GROUP_GET_STATUS")
        return bool(status.flags & VFIO_GROUP_FLAGS_VIABLE)

    def join(self, Container container not None):
        """Belong to a container."""
        cdef int fd = container.fd
        if ioctl(self.fd, VFIO_GROUP_SET_CONTAINER, &fd) < 0:
            raise failed("VFIO_GROUP_SET_CONTAINER")

    def open_device(self, str name not None):
        """The descriptor of a device by its address."""
        encoded = name.encode()
        cdef const char *text = encoded
        cdef int fd = ioctl(self.fd, VFIO_GROUP_GET_DEVICE_FD, text)
        if fd < 0:
            raise failed("VFIO_GROUP_GET_DEVICE_FD")
        os.set_inheritable(fd, False)
        return fd

    def close(self):
        """Leave the container and give the descriptor back."""
        if self.fd >= 0:
            ioctl(self.fd, VFIO_GROUP_UNSET_CONTAINER, 0)
            os.close(self.fd)
            self.fd = -1


cdef class DeviceMemory:
    """Part of a device's region in this process; unmapped when the object goes."""

    cdef uint8_t *_base
    cdef readonly uint64_t size

    def __cinit__(self, int fd, uint64_t offset, uint64_t size):
        cdef void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, <long>offset)
        if base == MAP_FAILED:
            raise failed("mmap of a device region")
        self._base, self.size = <uint8_t *>base, size

    @property
    def address(self):
        """Host virtual address of the first byte."""
        return <uintptr_t>self._base

    def __dealloc__(self):
        if self._base != NULL:
            munmap(self._base, self.size)


cdef class Device:
    """One device; owns the descriptor."""

    cdef readonly int fd
    cdef readonly bint can_reset

    def __cinit__(self, int fd):
        cdef vfio_device_info info
        self.fd = fd
        info.argsz = sizeof(info)
        if ioctl(fd, VFIO_DEVICE_GET_INFO, &info) < 0:
            raise failed("VFIO_DEVICE_GET_INFO")
        self.can_reset = bool(info.flags & VFIO_DEVICE_FLAGS_RESET)

    def region(self, uint32_t index):
        """(file offset, size, [(offset, size) that may be mapped]) of a region; None without it."""
        cdef vfio_region_info first
        cdef vfio_region_info *info
        cdef vfio_info_cap_header *header
        cdef vfio_region_info_cap_sparse_mmap *sparse
        cdef uint32_t at, i
        first.argsz, first.index = sizeof(first), index
        if ioctl(self.fd, VFIO_DEVICE_GET_REGION_INFO, &first) < 0 or first.size == 0:
            return None
        if not first.flags & VFIO_REGION_INFO_FLAG_MMAP:
            return first.offset, first.size, []
        areas = [(0, first.size)]
        if first.flags & VFIO_REGION_INFO_FLAG_CAPS and first.argsz > sizeof(first):
            info = <vfio_region_info *>calloc(1, first.argsz)
            if info == NULL:
                raise MemoryError()
            try:
                info.argsz, info.index = first.argsz, index
                if ioctl(self.fd, VFIO_DEVICE_GET_REGION_INFO, info) < 0:
                    raise failed("VFIO_DEVICE_GET_REGION_INFO")
                at = info.cap_offset
                while at and at + sizeof(vfio_info_cap_header) <= info.argsz:
                    header = <vfio_info_cap_header *>(<uint8_t *>info + at)
                    if header.id == VFIO_REGION_INFO_CAP_SPARSE_MMAP:
                        sparse = <vfio_region_info_cap_sparse_mmap *>header
                        areas = [(sparse.areas[i].offset, sparse.areas[i].size)
                                 for i in range(sparse.nr_areas)]
                    at = header.next
            finally:
                free(info)
        return first.offset, first.size, areas

    def irq_count(self, uint32_t index):
        """The number of the device's interrupts of a kind."""
        cdef vfio_irq_info info
        info.argsz, info.index = sizeof(info), index
        if ioctl(self.fd, VFIO_DEVICE_GET_IRQ_INFO, &info) < 0:
            return 0
        return info.count

    def set_irqs(self, uint32_t index, list fds not None):
        """Let interrupts of a kind signal eventfds, from the first on; none switches them off."""
        self._set_irqs(index, fds, VFIO_IRQ_SET_ACTION_TRIGGER)

    def set_unmask(self, uint32_t index, int fd):
        """Let an eventfd unmask the interrupt."""
        self._set_irqs(index, [fd], VFIO_IRQ_SET_ACTION_UNMASK)

    cdef _set_irqs(self, uint32_t index, list fds, uint32_t action):
        cdef uint32_t count = <uint32_t>len(fds), i
        cdef size_t size = sizeof(vfio_irq_set) + count * sizeof(int32_t)
        cdef vfio_irq_set *request = <vfio_irq_set *>calloc(1, size)
        if request == NULL:
            raise MemoryError()
        try:
            request.argsz, request.index, request.count = <uint32_t>size, index, count
            request.flags = action | (
                VFIO_IRQ_SET_DATA_EVENTFD if count else VFIO_IRQ_SET_DATA_NONE)
            for i in range(count):
                (<int32_t *>request.data)[i] = fds[i]
            if ioctl(self.fd, VFIO_DEVICE_SET_IRQS, request) < 0:
                raise failed("VFIO_DEVICE_SET_IRQS")
        finally:
            free(request)

    def reset(self):
        """Reset the function; raises OSError where that cannot be."""
        if ioctl(self.fd, VFIO_DEVICE_RESET, 0) < 0:
            raise failed("VFIO_DEVICE_RESET")

    def close(self):
        """Give the device back to its group."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
