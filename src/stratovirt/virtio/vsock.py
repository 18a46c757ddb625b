"""Socket device (virtio 1.2, section 5.10): the kernel's vhost-vsock serves the data queues."""

from __future__ import annotations

import errno
import os
import struct

from stratovirt._native.vhost import VhostDevice
from stratovirt.config.buses import DeviceId
from stratovirt.devices.device_host import DeviceHost
from stratovirt.errors import StratovirtError
from stratovirt.runtime.descriptors import DescriptorError, take_descriptor
from stratovirt.virtio.device import TRANSPORT_FEATURES, ActiveQueue, VirtioDevice

QUEUE_SIZE = 128
RECEIVE, TRANSMIT, EVENT = range(3)
VHOST_VSOCK = "/dev/vhost-vsock"


class Vsock(VirtioDevice):
    """The guest's AF_VSOCK device. The event queue is not served: it only matters on migration."""

    device_id = DeviceId.SOCKET
    uses_kernel_interrupts = True

    def __init__(self, name: str, cid: int, vhost: VhostDevice, host: DeviceHost) -> None:
        super().__init__()
        self.name = name
        self._cid = cid
        self._vhost = vhost
        self._memory = host.memory
        self._queues: list[ActiveQueue] = []
        self._offered = vhost.get_features()
        self._agreed = 0
        self._is_running = False

    @property
    def queue_sizes(self) -> tuple[int, ...]:
        """Receive, transmit and event."""
        return (QUEUE_SIZE, QUEUE_SIZE, QUEUE_SIZE)

    @property
    def features(self) -> int:
        """The device-specific feature bits (0 to 7) that vhost-vsock offers."""
        return self._offered & 0xFF

    @property
    def transport_features(self) -> int:
        """Ring features that vhost-vsock can serve."""
        return TRANSPORT_FEATURES & self._offered

    def config_space(self) -> bytes:
        """struct virtio_vsock_config (section 5.10.4)."""
        return struct.pack("<Q", self._cid)

    def activate(self, queues: list[ActiveQueue], features: int) -> None:
        """Hand the data queues to the kernel."""
        self._queues = [queue for queue in queues if queue.index in (RECEIVE, TRANSMIT)]
        self._agreed = features
        if not self.is_resting:
            self._start()

    def deactivate(self) -> None:
        """Take the queues back from the kernel and drop them."""
        self._stop()
        self._queues = []

    @property
    def obstacle(self) -> str:
        """Why it cannot be saved: the kernel holds the connections and cannot export them."""
        return "vhost-vsock's connections cannot be saved"

    def resume(self) -> None:
        """Start vhost-vsock."""
        super().resume()
        self._start()

    def quiesce(self) -> None:
        """Stop vhost-vsock; the requests it has taken are complete then."""
        super().quiesce()
        self._stop()

    def _start(self) -> None:
        if self._is_running or len(self._queues) < 2:
            return
        try:
            self._vhost.set_features(self._agreed & self._offered)
            self._vhost.set_memory(self._memory)
            for queue in self._queues:
                self._vhost.set_ring(queue.index, queue.ring, queue.kick_fd, queue.notifier.fd)
            self._vhost.set_vsock_running(1)
            self._memory.add_writer(self)
        except OSError as error:
            self.broken(str(error))
            return
        self._is_running = True

    def _stop(self) -> None:
        if not self._is_running:
            return
        self._is_running = False
        self._vhost.set_vsock_running(0)
        for queue in self._queues:
            self._vhost.take_back(queue.index, queue.ring)
        self._memory.remove_writer(self)

    @property
    def log_obstacle(self) -> str:
        """Why its writes cannot be logged: the kernel logs those to used rings, not to buffers."""
        return f"{self.name}: the kernel's vhost-vsock does not log what it receives"

    def start_log(self) -> None:
        """Does nothing: see `log_obstacle`."""

    def collect_log(self) -> None:
        """Does nothing: see `log_obstacle`."""

    def stop_log(self) -> None:
        """Does nothing: see `log_obstacle`."""

    def close(self) -> None:
        """Close the vhost-vsock device, which releases the context id."""
        self._vhost.close()


def open_vsock(
    name: str, cid: int, handed_over: tuple[str, ...], host: DeviceHost, source: str
) -> Vsock:
    """The device of a guest with this `cid`, on a vhost descriptor that may be handed over.

    Raises StratovirtError, whose text starts with `source`.
    """
    if handed_over:
        try:
            vhost = VhostDevice(take_descriptor(handed_over[0]))
        except DescriptorError as error:
            raise StratovirtError(f"{source},vhostfd={handed_over[0]}: {error}") from error
    else:
        try:
            vhost = VhostDevice(os.open(VHOST_VSOCK, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            hint = "; load the module vhost_vsock" if error.errno == errno.ENOENT else ""
            raise StratovirtError(
                f"{source}: cannot open {VHOST_VSOCK}: {error.strerror}{hint}"
            ) from error
    try:
        vhost.set_owner()
        vhost.set_guest_cid(cid)
        return Vsock(name, cid, vhost, host)
    except OSError as error:
        vhost.close()
        if error.errno == errno.EADDRINUSE:
            raise StratovirtError(f"{source}: another guest has this id") from error
        raise StratovirtError(f"{source}: {error.strerror}") from error
