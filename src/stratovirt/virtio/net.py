"""Network card (virtio 1.2, section 5.1): queue pairs on a tap, by our engine or by vhost-net."""

from __future__ import annotations

import errno
import os
import struct

from stratovirt._native import tap as tun
from stratovirt._native.net_engine import NetEngine
from stratovirt._native.vhost import VhostDevice
from stratovirt._native.virtqueue import DescriptorChain
from stratovirt.config import net as config
from stratovirt.config.devices import VirtioNet
from stratovirt.errors import StratovirtError
from stratovirt.machine.device_host import DeviceHost
from stratovirt.net.tap import Tap
from stratovirt.runtime.descriptors import DescriptorError, take_descriptor
from stratovirt.runtime.log import Log
from stratovirt.runtime.loop import READABLE, Loop
from stratovirt.virtio.device import TRANSPORT_FEATURES, ActiveQueue, VirtioDevice
from stratovirt.virtio.engine_thread import EngineThread
from stratovirt.virtio.net_control import NetControl
from stratovirt.virtio.served_queue import ServedQueue

log = Log(__name__)

QUEUE_SIZE = 256
CONFIG = struct.Struct("<6sHHH")
"""mac, status, max_virtqueue_pairs, mtu."""
LINK_UP = 1
VHOST_NET = "/dev/vhost-net"
OWN_PREFIX = bytes.fromhex("525400")
"""Locally administered, as QEMU's cards have it; the other half of an address is random."""

F_CSUM, F_GUEST_CSUM, F_MAC = 1 << 0, 1 << 1, 1 << 5
F_GUEST_TSO4, F_GUEST_TSO6, F_GUEST_ECN, F_GUEST_UFO = 1 << 7, 1 << 8, 1 << 9, 1 << 10
F_HOST_TSO4, F_HOST_TSO6, F_HOST_ECN, F_HOST_UFO = 1 << 11, 1 << 12, 1 << 13, 1 << 14
F_MRG_RXBUF, F_STATUS, F_CTRL_VQ, F_CTRL_RX = 1 << 15, 1 << 16, 1 << 17, 1 << 18
F_CTRL_VLAN, F_CTRL_RX_EXTRA, F_MQ, F_CTRL_MAC_ADDR = 1 << 19, 1 << 20, 1 << 22, 1 << 23
OFFLOADS = (
    F_CSUM | F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_ECN
    | F_HOST_TSO4 | F_HOST_TSO6 | F_HOST_ECN
)  # fmt: skip
FILTERS = F_CTRL_RX | F_CTRL_VLAN | F_CTRL_RX_EXTRA
"""Only our own engine filters; the kernel's vhost delivers all that the tap has."""
TAP_OFFLOADS = {
    F_GUEST_CSUM: tun.OFFLOAD_CSUM,
    F_GUEST_TSO4: tun.OFFLOAD_TSO4,
    F_GUEST_TSO6: tun.OFFLOAD_TSO6,
    F_GUEST_ECN: tun.OFFLOAD_ECN,
    F_GUEST_UFO: tun.OFFLOAD_UFO,
}
"""What the tap may leave unfinished, by what the guest agreed to take so."""


class EnginePair:
    """One queue pair served by a thread of our own."""

    def __init__(self, engine: NetEngine) -> None:
        self._engine = engine
        self._thread: EngineThread | None = None

    def start(self) -> None:
        """Serve."""
        self._thread = EngineThread(self._engine)

    def stop(self) -> None:
        """Stop; when this returns nothing moves."""
        if self._thread is not None:
            self._thread.stop()

    @property
    def tap_is_gone(self) -> bool:
        """Whether somebody deleted the tap."""
        return self._engine.tap_is_gone


class VhostPair:
    """One queue pair served by the kernel."""

    tap_is_gone = False

    def __init__(self, vhost: VhostDevice, queues: tuple[ActiveQueue, ActiveQueue], tap: int):
        self._vhost, self._queues, self._tap = vhost, queues, tap

    def start(self) -> None:
        """Hand the rings over; raises OSError."""
        for index, queue in enumerate(self._queues):
            self._vhost.set_ring(index, queue.ring, queue.kick_fd, queue.notifier.fd)
        for index in (0, 1):
            self._vhost.set_net_backend(index, self._tap)

    def stop(self) -> None:
        """Take the rings back, with how far the kernel came."""
        for index, queue in enumerate(self._queues):
            self._vhost.set_net_backend(index, -1)
            self._vhost.take_back(index, queue.ring)


class Net(VirtioDevice):
    """One card; `vhosts` has a vhost-net device for each queue pair, or is empty."""

    device_id = 1

    def __init__(
        self, options: VirtioNet, tap: Tap, vhosts: list[VhostDevice], host: DeviceHost
    ) -> None:
        super().__init__()
        self.name = options.id or f"virtio-net({options.netdev})"
        self._loop: Loop = host.loop
        self._memory = host.memory
        self._tap = tap
        self._vhosts = vhosts
        self.uses_kernel_interrupts = bool(vhosts)
        self._pairs_most = len(tap.fds) if options.mq else 1
        self._mac = options.mac or OWN_PREFIX + os.urandom(3)
        self._link_up = True
        self._queues: dict[int, ActiveQueue] = {}
        self._agreed = 0
        self._control_queue: ServedQueue | None = None
        self._running: list[EnginePair | VhostPair] = []
        self._is_resting = False
        self._control = NetControl(self._mac, self._pairs_most, self._control_changed)
        self._failure_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._loop.watch(self._failure_fd, READABLE, self._failed)

    @property
    def queue_sizes(self) -> tuple[int, ...]:
        """Receive and transmit for each pair, and control."""
        return (QUEUE_SIZE,) * (2 * self._pairs_most + 1)

    @property
    def features(self) -> int:
        """Offloads of the tap, control, filters of our engine, several pairs when asked for."""
        features = OFFLOADS | F_MAC | F_MRG_RXBUF | F_STATUS | F_CTRL_VQ | F_CTRL_MAC_ADDR
        if self._tap.has_ufo:
            features |= F_GUEST_UFO | F_HOST_UFO
        if self._pairs_most > 1:
            features |= F_MQ
        if not self._vhosts:
            features |= FILTERS
        elif not self._vhosts[0].get_features() & F_MRG_RXBUF:
            features &= ~F_MRG_RXBUF
        return features

    @property
    def transport_features(self) -> int:
        """Ring features, as far as the kernel knows them when it serves the rings."""
        if not self._vhosts:
            return TRANSPORT_FEATURES
        return TRANSPORT_FEATURES & self._vhosts[0].get_features()

    def config_space(self) -> bytes:
        """struct virtio_net_config up to mtu (section 5.1.4)."""
        status = LINK_UP if self._link_up else 0
        return CONFIG.pack(self._mac, status, self._pairs_most, 0)

    def activate(self, queues: list[ActiveQueue], features: int) -> None:
        """Start with one pair; the driver asks for more over the control queue."""
        self._queues = {queue.index: queue for queue in queues}
        self._agreed = features
        self._control.reset(filters_vlans=bool(features & F_CTRL_VLAN))
        self._tap.set_offload(
            sum(flag for feature, flag in TAP_OFFLOADS.items() if features & feature)
        )
        control = self._queues.get(2 * self._pairs_most if features & F_MQ else 2)
        if features & F_CTRL_VQ and control is not None:
            self._control_queue = ServedQueue(
                self._loop, control, self._handle_control, self._queue_broken
            )
        self._tap.enable(1)
        self.resume()

    def deactivate(self) -> None:
        """Stop and forget the queues."""
        self.quiesce()
        self._queues = {}
        self._control_queue = None
        self._is_resting = False

    def quiesce(self) -> None:
        """Stop all pairs."""
        self._is_resting = True
        if self._control_queue is not None:
            self._control_queue.stop()
        self._stop_pairs()

    def resume(self) -> None:
        """Serve, as many pairs as the driver asked for."""
        self._is_resting = False
        if not self._queues:
            return
        if self._control_queue is not None:
            self._control_queue.start()
        self._start_pairs()

    def close(self) -> None:
        """Give tap and vhost devices back."""
        self._loop.unwatch(self._failure_fd)
        os.close(self._failure_fd)
        for vhost in self._vhosts:
            vhost.close()
        self._tap.close()

    def _start_pairs(self) -> None:
        if self._running or not self._link_up:
            return
        try:
            for index in range(self._control.pairs):
                receive, transmit = self._queues.get(2 * index), self._queues.get(2 * index + 1)
                if receive is not None and transmit is not None:
                    pair = self._make_pair(index, receive, transmit)
                    pair.start()
                    self._running.append(pair)
        except OSError as error:
            self._queue_broken(str(error))

    def _make_pair(
        self, index: int, receive: ActiveQueue, transmit: ActiveQueue
    ) -> EnginePair | VhostPair:
        tap = self._tap.fds[index]
        if self._vhosts:
            vhost = self._vhosts[index]
            vhost.set_features(self._agreed & vhost.get_features())
            vhost.set_memory(self._memory)
            return VhostPair(vhost, (receive, transmit), tap)
        engine = NetEngine(
            receive.ring,
            receive.kick_fd,
            transmit.ring,
            transmit.kick_fd,
            receive.notifier,
            tap,
            mergeable=bool(self._agreed & F_MRG_RXBUF),
            failure_fd=self._failure_fd,
        )
        if self._agreed & F_CTRL_RX:
            self._control.apply(engine)
        return EnginePair(engine)

    def _stop_pairs(self) -> None:
        for pair in self._running:
            pair.stop()
        self._running = []

    def _handle_control(self, chain: DescriptorChain) -> bool:
        self._control.handle(chain)
        return True

    def _control_changed(self) -> None:
        """What the driver wants to receive, or over how many pairs, is different now."""
        self._mac = self._control.mac
        if not self._is_resting:
            self._stop_pairs()
            self._tap.enable(self._control.pairs)
            self._start_pairs()

    def _queue_broken(self, reason: str) -> None:
        self.quiesce()
        self.broken(reason)

    def _failed(self, _events: int) -> None:
        os.eventfd_read(self._failure_fd)
        gone = any(pair.tap_is_gone for pair in self._running)
        reasons = [queue.ring.failure for queue in self._queues.values() if queue.ring.failure]
        self._stop_pairs()
        if reasons:
            self._queue_broken(reasons[0])
        elif gone:
            log.warn(f"{self.name}: the tap was deleted; the link is down")
            self._link_up = False
            self.config_changed()


def make(options: VirtioNet, host: DeviceHost) -> Net:
    """The device for `options`."""
    netdev = host.config.netdevs[options.netdev]
    assert isinstance(netdev, config.Tap)
    tap = Tap(netdev)
    vhosts: list[VhostDevice] = []
    try:
        if netdev.vhost or options.vhost:
            vhosts = _open_vhosts(options, netdev, len(tap.fds))
        return Net(options, tap, vhosts, host)
    except Exception:
        for vhost in vhosts:
            vhost.close()
        tap.close()
        raise


def _open_vhosts(options: VirtioNet, netdev: config.Tap, count: int) -> list[VhostDevice]:
    source = f"{netdev.flag},id={netdev.id}"
    names = netdev.vhostfds or netdev.vhostfd or options.vhostfds or options.vhostfd
    if names and len(names) != count:
        raise StratovirtError(f"{source}: {count} queues need as many vhost descriptors")
    vhosts: list[VhostDevice] = []
    try:
        for index in range(count):
            fd = take_descriptor(names[index]) if names else _open_vhost_net()
            vhosts.append(VhostDevice(fd))
            vhosts[-1].set_owner()
    except DescriptorError as error:
        raise StratovirtError(f"{source},vhostfd={names[len(vhosts)]}: {error}") from error
    except OSError as error:
        hint = "; load the module vhost_net" if error.errno == errno.ENOENT else ""
        raise StratovirtError(f"{source}: cannot use vhost-net: {error.strerror}{hint}") from error
    return vhosts


def _open_vhost_net() -> int:
    return os.open(VHOST_NET, os.O_RDWR | os.O_CLOEXEC)
