"""The kernel's vhost devices: ioctls on /dev/vhost-net and /dev/vhost-vsock.

Once a ring is handed over the kernel serves it alone; a failed ioctl is an OSError that names it.
"""

from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from posix cimport unistd

from stratovirt._native.guest_memory cimport GuestMemory
from stratovirt._native.kernel cimport failed, ioctl
from stratovirt._native.virtqueue cimport Virtqueue

cdef extern from "linux/vhost.h" nogil:
    unsigned long VHOST_SET_OWNER, VHOST_GET_FEATURES, VHOST_SET_FEATURES, VHOST_SET_MEM_TABLE
    unsigned long VHOST_SET_VRING_NUM, VHOST_SET_VRING_BASE, VHOST_GET_VRING_BASE
    unsigned long VHOST_SET_VRING_ADDR, VHOST_SET_VRING_KICK, VHOST_SET_VRING_CALL
    unsigned long VHOST_SET_LOG_BASE
    int VHOST_F_LOG_ALL, VHOST_VRING_F_LOG
    unsigned long VHOST_NET_SET_BACKEND, VHOST_VSOCK_SET_GUEST_CID, VHOST_VSOCK_SET_RUNNING

    struct vhost_vring_state:
        uint32_t index, num
    struct vhost_vring_file:
        uint32_t index
        int32_t fd
    struct vhost_vring_addr:
        uint32_t index, flags
        uint64_t desc_user_addr, used_user_addr, avail_user_addr, log_guest_addr
    struct vhost_memory_region:
        uint64_t guest_phys_addr, memory_size, userspace_addr, flags_padding
    struct vhost_memory:
        uint32_t nregions
        vhost_memory_region regions[0]


F_LOG_ALL = 1 << VHOST_F_LOG_ALL
"""The feature to log all writes to guest memory."""
VRING_F_LOG = 1 << VHOST_VRING_F_LOG
"""Flag of a ring's addresses: writes to its used ring are logged."""


cdef class VhostDevice:
    """An open vhost device; the descriptor is closed with the object."""

    cdef readonly int fd

    def __cinit__(self, int fd):
        self.fd = fd

    def __dealloc__(self):
        self.close()

    def close(self):
        """Give the descriptor back; the kernel stops serving."""
        if self.fd >= 0:
            unistd.close(self.fd)
            self.fd = -1

    cdef int _do(self, str what, unsigned long request, void *argument) except -1:
        cdef int result = ioctl(self.fd, request, argument)
        if result < 0:
            raise failed(what)
        return result

    def set_owner(self):
        """Make this process the owner, whose memory the kernel uses."""
        self._do("VHOST_SET_OWNER", VHOST_SET_OWNER, NULL)

    def get_features(self):
        """The virtio features the kernel can serve."""
        cdef uint64_t features = 0
        self._do("VHOST_GET_FEATURES", VHOST_GET_FEATURES, &features)
        return features

    def set_features(self, uint64_t features):
        """The features that the driver agreed to, as far as the kernel has them."""
        self._do("VHOST_SET_FEATURES", VHOST_SET_FEATURES, &features)

    def set_memory(self, GuestMemory memory not None):
        """Tell the kernel where guest RAM is."""
        cdef int i
        cdef vhost_memory *table = <vhost_memory *>calloc(
            1, sizeof(vhost_memory) + memory._count * sizeof(vhost_memory_region))
        if table == NULL:
            raise MemoryError()
        try:
            table.nregions = memory._count
            for i in range(memory._count):
                table.regions[i].guest_phys_addr = memory._blocks[i].gpa
                table.regions[i].memory_size = memory._blocks[i].size
                table.regions[i].userspace_addr = <uint64_t>memory._blocks[i].hva
            self._do("VHOST_SET_MEM_TABLE", VHOST_SET_MEM_TABLE, table)
        finally:
            free(table)

    def set_log(self, GuestMemory memory not None):
        """Tell the kernel where the log of `memory` is, which has been started before."""
        cdef uint64_t base = <uint64_t>memory._log_area
        self._do("VHOST_SET_LOG_BASE", VHOST_SET_LOG_BASE, &base)

    def set_ring_address(self, uint32_t index, Virtqueue ring not None, bint logged):
        """Say where the parts of ring `index` are and whether writes to its used ring are logged."""
        cdef vhost_vring_addr address
        address.index = index
        address.flags = 1 << VHOST_VRING_F_LOG if logged else 0
        address.log_guest_addr = ring.used_gpa
        address.desc_user_addr = <uint64_t>ring._desc
        address.avail_user_addr = <uint64_t>ring._avail
        address.used_user_addr = <uint64_t>ring._used
        self._do("VHOST_SET_VRING_ADDR", VHOST_SET_VRING_ADDR, &address)

    def set_ring(self, uint32_t index, Virtqueue ring not None, int kick_fd, int call_fd,
                 bint logged=False):
        """Hand ring `index` over: its place, its position, its doorbell and its interrupt."""
        cdef vhost_vring_state state
        cdef vhost_vring_file file
        state.index, state.num = index, ring.size
        self._do("VHOST_SET_VRING_NUM", VHOST_SET_VRING_NUM, &state)
        state.num = ring._last_avail
        self._do("VHOST_SET_VRING_BASE", VHOST_SET_VRING_BASE, &state)
        self.set_ring_address(index, ring, logged)
        file.index, file.fd = index, kick_fd
        self._do("VHOST_SET_VRING_KICK", VHOST_SET_VRING_KICK, &file)
        file.fd = call_fd
        self._do("VHOST_SET_VRING_CALL", VHOST_SET_VRING_CALL, &file)

    def take_back(self, uint32_t index, Virtqueue ring not None):
        """After the kernel has stopped: note in `ring` how far it came."""
        cdef vhost_vring_state state
        state.index, state.num = index, 0
        self._do("VHOST_GET_VRING_BASE", VHOST_GET_VRING_BASE, &state)
        # The kernel completes what it takes, so the used index is where the guest sees it.
        ring.position = (<uint32_t>state.num & 0xFFFF, ring._used[1])

    def set_net_backend(self, uint32_t index, int tap_fd):
        """Connect a vhost-net ring to a tap, or disconnect it with -1."""
        cdef vhost_vring_file file
        file.index, file.fd = index, tap_fd
        self._do("VHOST_NET_SET_BACKEND", VHOST_NET_SET_BACKEND, &file)

    def set_guest_cid(self, uint64_t cid):
        """The context id of a vhost-vsock device's guest."""
        self._do("VHOST_VSOCK_SET_GUEST_CID", VHOST_VSOCK_SET_GUEST_CID, &cid)

    def set_vsock_running(self, int running):
        """Start or stop a vhost-vsock device."""
        self._do("VHOST_VSOCK_SET_RUNNING", VHOST_VSOCK_SET_RUNNING, &running)
