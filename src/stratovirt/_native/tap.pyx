"""Tap interfaces: the ioctls of linux/if_tun.h."""

from libc.stdint cimport uint64_t
from libc.string cimport memcpy, memset

from stratovirt._native.kernel cimport failed, ioctl

cdef extern from "net/if.h" nogil:
    enum: IFNAMSIZ
    struct ifreq:
        char ifr_name[IFNAMSIZ]
        short ifr_flags

cdef extern from "linux/if_tun.h" nogil:
    unsigned long TUNSETIFF "TUNSETIFF", TUNGETIFF "TUNGETIFF", TUNSETVNETHDRSZ "TUNSETVNETHDRSZ"
    unsigned long TUNSETOFFLOAD "TUNSETOFFLOAD", TUNSETQUEUE "TUNSETQUEUE"
    int IFF_TAP "IFF_TAP", IFF_NO_PI "IFF_NO_PI", IFF_VNET_HDR "IFF_VNET_HDR"
    int IFF_MULTI_QUEUE "IFF_MULTI_QUEUE"
    int IFF_ATTACH_QUEUE "IFF_ATTACH_QUEUE", IFF_DETACH_QUEUE "IFF_DETACH_QUEUE"
    int TUN_F_CSUM "TUN_F_CSUM", TUN_F_TSO4 "TUN_F_TSO4", TUN_F_TSO6 "TUN_F_TSO6"
    int TUN_F_TSO_ECN "TUN_F_TSO_ECN", TUN_F_UFO "TUN_F_UFO"

cdef extern from "linux/virtio_net.h" nogil:
    struct virtio_net_hdr_v1:
        pass

OFFLOAD_CSUM = TUN_F_CSUM
OFFLOAD_TSO4 = TUN_F_TSO4
OFFLOAD_TSO6 = TUN_F_TSO6
OFFLOAD_ECN = TUN_F_TSO_ECN
OFFLOAD_UFO = TUN_F_UFO
HEADER_BYTES = sizeof(virtio_net_hdr_v1)
"""Of the header before each packet (virtio 1.2, section 5.1.6)."""


def attach(int fd, str name, bint multi_queue):
    """Make /dev/net/tun descriptor `fd` a queue of the tap `name`, with a virtio-net header."""
    cdef ifreq request
    content = name.encode()
    if len(content) >= IFNAMSIZ:
        raise ValueError(f"'{name}' is longer than an interface's name")
    memset(&request, 0, sizeof(request))
    memcpy(request.ifr_name, <char *>content, len(content))
    request.ifr_flags = <short>(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
                                | (IFF_MULTI_QUEUE if multi_queue else 0))
    if ioctl(fd, TUNSETIFF, &request) < 0:
        raise failed("TUNSETIFF")


def is_tap(int fd):
    """Whether `fd` carries Ethernet frames; OSError when it is neither a tap nor a tun."""
    return bool(_flags(fd) & IFF_TAP)


def carries_header(int fd):
    """Whether the tap behind `fd` was opened with a virtio-net header; OSError when it is no tap."""
    return bool(_flags(fd) & IFF_VNET_HDR)


cdef int _flags(int fd) except -1:
    cdef ifreq request
    memset(&request, 0, sizeof(request))
    if ioctl(fd, TUNGETIFF, &request) < 0:
        raise failed("TUNGETIFF")
    return request.ifr_flags & 0xFFFF


def set_header_size(int fd, int size):
    """Length of the virtio-net header in bytes: 12 with VIRTIO_F_VERSION_1."""
    if ioctl(fd, TUNSETVNETHDRSZ, &size) < 0:
        raise failed("TUNSETVNETHDRSZ")


def set_offload(int fd, unsigned long flags):
    """Set the offloads that the guest has negotiated, OFFLOAD_* bits."""
    if ioctl(fd, TUNSETOFFLOAD, flags) < 0:
        raise failed("TUNSETOFFLOAD")


def enable_queue(int fd, bint enable):
    """Let the kernel use this queue of a multi-queue tap, or not."""
    cdef ifreq request
    memset(&request, 0, sizeof(request))
    request.ifr_flags = <short>(IFF_ATTACH_QUEUE if enable else IFF_DETACH_QUEUE)
    if ioctl(fd, TUNSETQUEUE, &request) < 0:
        raise failed("TUNSETQUEUE")
