"""Numbers of the ioctl(2) requests that a running machine makes, from the kernel's headers."""

from stratovirt._native.kvm_abi cimport *

cdef extern from "linux/vhost.h":
    unsigned int VHOST_GET_FEATURES, VHOST_GET_VRING_BASE, VHOST_NET_SET_BACKEND
    unsigned int VHOST_SET_FEATURES, VHOST_SET_MEM_TABLE, VHOST_SET_OWNER, VHOST_SET_VRING_ADDR
    unsigned int VHOST_SET_VRING_BASE, VHOST_SET_VRING_CALL, VHOST_SET_VRING_KICK
    unsigned int VHOST_SET_VRING_NUM, VHOST_VSOCK_SET_GUEST_CID, VHOST_VSOCK_SET_RUNNING
    unsigned int VHOST_SET_LOG_BASE

cdef extern from "linux/if_tun.h":
    unsigned int TUNGETIFF, TUNSETOFFLOAD, TUNSETQUEUE, TUNSETVNETHDRSZ

cdef extern from "linux/vfio.h":
    unsigned int VFIO_CHECK_EXTENSION, VFIO_DEVICE_GET_INFO, VFIO_DEVICE_GET_IRQ_INFO
    unsigned int VFIO_DEVICE_GET_REGION_INFO, VFIO_DEVICE_RESET, VFIO_DEVICE_SET_IRQS
    unsigned int VFIO_GET_API_VERSION, VFIO_GROUP_GET_DEVICE_FD, VFIO_GROUP_GET_STATUS
    unsigned int VFIO_GROUP_SET_CONTAINER, VFIO_GROUP_UNSET_CONTAINER, VFIO_IOMMU_MAP_DMA
    unsigned int VFIO_IOMMU_UNMAP_DMA, VFIO_SET_IOMMU

cdef extern from "sys/ioctl.h":
    unsigned int c_FIONBIO "FIONBIO", c_FIOCLEX "FIOCLEX"

cdef extern from "termios.h":
    unsigned int c_TCGETS "TCGETS", c_TCSETS "TCSETS", c_TCFLSH "TCFLSH"

KVM = (
    KVM_RUN, KVM_IRQ_LINE, KVM_IRQFD, KVM_IOEVENTFD, KVM_SET_GSI_ROUTING,
    KVM_SET_USER_MEMORY_REGION, KVM_CHECK_EXTENSION, KVM_CREATE_VCPU, KVM_CREATE_VM,
    KVM_GET_VCPU_MMAP_SIZE, KVM_ENABLE_CAP, KVM_GET_DIRTY_LOG, KVM_CLEAR_DIRTY_LOG,
)
"""Running vCPUs, interrupts, doorbells, a reset's twin machine, the log of written pages; an
architecture adds its own."""

VHOST = (
    VHOST_GET_FEATURES, VHOST_GET_VRING_BASE, VHOST_NET_SET_BACKEND, VHOST_SET_FEATURES,
    VHOST_SET_MEM_TABLE, VHOST_SET_OWNER, VHOST_SET_VRING_ADDR, VHOST_SET_VRING_BASE,
    VHOST_SET_VRING_CALL, VHOST_SET_VRING_KICK, VHOST_SET_VRING_NUM, VHOST_VSOCK_SET_GUEST_CID,
    VHOST_VSOCK_SET_RUNNING, VHOST_SET_LOG_BASE,
)
"""vhost-net and vhost-vsock, which start with the driver."""

TAP = (TUNGETIFF, TUNSETOFFLOAD, TUNSETQUEUE, TUNSETVNETHDRSZ)
"""Open taps; without TUNSETIFF no other tap can be reached."""

VFIO = (
    KVM_CREATE_DEVICE, KVM_SET_DEVICE_ATTR,
    VFIO_CHECK_EXTENSION, VFIO_DEVICE_GET_INFO, VFIO_DEVICE_GET_IRQ_INFO,
    VFIO_DEVICE_GET_REGION_INFO, VFIO_DEVICE_RESET, VFIO_DEVICE_SET_IRQS, VFIO_GET_API_VERSION,
    VFIO_GROUP_GET_DEVICE_FD, VFIO_GROUP_GET_STATUS, VFIO_GROUP_SET_CONTAINER,
    VFIO_GROUP_UNSET_CONTAINER, VFIO_IOMMU_MAP_DMA, VFIO_IOMMU_UNMAP_DMA, VFIO_SET_IOMMU,
)
"""Host PCI functions, also those that are plugged in later."""

FIOCLEX = c_FIOCLEX
FILES = (c_FIONBIO, FIOCLEX)
"""Requests that Python makes of a descriptor that it has just received."""

TERMINAL = (c_TCGETS, c_TCSETS, c_TCFLSH)
"""The user's terminal is put back at the end; without TIOCSTI nothing can be typed into it."""
