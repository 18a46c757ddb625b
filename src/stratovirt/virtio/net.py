"""Network card (virtio 1.2, section 5.1): queue pairs on a tap, by our engine or by vhost-net."""

from __future__ import annotations

import os
import struct

from stratovirt._native import tap as tun
from stratovirt._native.net_engine import NetEngine
from stratovirt._native.vhost import VhostDevice
from stratovirt._native.virtqueue import DescriptorChain
from stratovirt.config import net as config
from stratovirt.config.devices import VirtioNet
from stratovirt.config.options import opt
from stratovirt.machine.device_host import DeviceHost
from stratovirt.net.back_end import NetBackEnd
from stratovirt.runtime.log import Log
from stratovirt.runtime.loop import READABLE, Loop
from stratovirt.snapshot.state import FLAG, Bytes, SnapshotError, State, Struct
from stratovirt.virtio.device import TRANSPORT_FEATURES, ActiveQueue, VirtioDevice
from stratovirt.virtio.engine_thread import EngineThread
from stratovirt.virtio.net_control import NetControl, NetControlState
from stratovirt.virtio.served_queue import ServedQueue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.runtime.io_thread import IoThread

log = Log(__name__)

QUEUE_SIZE = 256
CONFIG = struct.Struct("<6sHHH")
"""mac, status, max_virtqueue_pairs, mtu."""
LINK_UP, ANNOUNCE = 1, 2
"""Bits of status."""
OWN_PREFIX = bytes.fromhex("525400")
"""Locally administered, as QEMU's cards have it; the other half of an address is random."""

F_CSUM, F_GUEST_CSUM, F_MAC = 1 << 0, 1 << 1, 1 << 5
F_GUEST_TSO4, F_GUEST_TSO6, F_GUEST_ECN, F_GUEST_UFO = 1 << 7, 1 << 8, 1 << 9, 1 << 10
F_HOST_TSO4, F_HOST_TSO6, F_HOST_ECN, F_HOST_UFO = 1 << 11, 1 << 12, 1 << 13, 1 << 14
F_MRG_RXBUF, F_STATUS, F_CTRL_VQ, F_CTRL_RX = 1 << 15, 1 << 16, 1 << 17, 1 << 18
F_CTRL_VLAN, F_CTRL_RX_EXTRA, F_GUEST_ANNOUNCE = 1 << 19, 1 << 20, 1 << 21
F_MQ, F_CTRL_MAC_ADDR = 1 << 22, 1 << 23
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
    """One queue pair served by our engine."""

    def __init__(self, engine: NetEngine, iothread: IoThread | None) -> None:
        self._engine = engine
        self._iothread = iothread
        self._thread: EngineThread | None = None

    def start(self) -> None:
        """Serve; raises OSError."""
        self._thread = EngineThread(self._engine, self._iothread)

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


class NetState(State):
    """The card's own address, its link, and what the driver asked for."""

    first_mac: bytes = opt(Bytes(6))
    link_up: bool = opt(FLAG)
    must_announce: bool = opt(FLAG)
    control: NetControlState = opt(Struct(NetControlState))


class Net(VirtioDevice):
    """One card. Its back end may come and go; without one the link is down."""

    device_id = 1
    state_type = NetState

    def __init__(self, name: str, pairs: int, mac: bytes | None, host: DeviceHost) -> None:
        super().__init__()
        self.name = name
        self._loop: Loop = host.loop
        self._memory = host.memory
        self.back_end: NetBackEnd | None = None
        self._iothread: IoThread | None = None
        self._pairs_most = pairs
        self._first_mac = mac or OWN_PREFIX + os.urandom(3)
        self._mac_is_given = mac is not None
        self._link_up = False
        self._must_announce = False
        self._queues: dict[int, ActiveQueue] = {}
        self._agreed = 0
        self._control_queue: ServedQueue | None = None
        self._running: list[EnginePair | VhostPair] = []
        self._control = NetControl(self._first_mac, pairs, self._control_changed, self._announced)
        self._failure_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._loop.watch(self._failure_fd, READABLE, self._failed)

    @property
    def queue_sizes(self) -> tuple[int, ...]:
        """Receive and transmit for each pair, and control."""
        return (QUEUE_SIZE,) * (2 * self._pairs_most + 1)

    @property
    def _vhosts(self) -> list[VhostDevice]:
        return self.back_end.vhosts if self.back_end is not None else []

    @property
    def features(self) -> int:
        """Offloads of the tap, control, filters of our engine, several pairs when asked for."""
        features = OFFLOADS | F_MAC | F_MRG_RXBUF | F_STATUS | F_CTRL_VQ | F_CTRL_MAC_ADDR
        features |= F_GUEST_ANNOUNCE
        if self.back_end is not None and self.back_end.tap.has_ufo:
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
        status = (LINK_UP if self._link_up else 0) | (ANNOUNCE if self._must_announce else 0)
        # A driver at work keeps the address it has read, or set.
        mac = self._control.mac if self._queues else self._first_mac
        return CONFIG.pack(mac, status, self._pairs_most, 0)

    def connect(self, back_end: NetBackEnd, mac: bytes | None, iothread: IoThread | None) -> None:
        """Plug the cable in; the back end is the device's from now on."""
        self.back_end, self._iothread = back_end, iothread
        self._first_mac = mac or self._first_mac
        self._link_up = True
        if self._queues:
            self._prepare_tap()
            self.announce()
            if not self.is_resting:
                self._start_pairs()
        self.config_changed()

    def disconnect(self) -> NetBackEnd:
        """Pull the cable out; the back end is the caller's again."""
        assert self.back_end is not None
        self._stop_pairs()
        back_end, self.back_end = self.back_end, None
        self._iothread = None
        self._link_up = False
        self.config_changed()
        return back_end

    def announce(self) -> None:
        """Have the guest tell the network where it is (section 5.1.6.5.4)."""
        if self._agreed & F_GUEST_ANNOUNCE and self._link_up:
            self._must_announce = True
            self.config_changed()

    def _announced(self) -> None:
        self._must_announce = False

    def _prepare_tap(self) -> None:
        if self.back_end is not None:
            self.back_end.tap.set_offload(
                sum(flag for feature, flag in TAP_OFFLOADS.items() if self._agreed & feature)
            )
            self.back_end.tap.enable(self._control.pairs)

    def activate(self, queues: list[ActiveQueue], features: int) -> None:
        """Start with one pair; the driver asks for more over the control queue."""
        self._queues = {queue.index: queue for queue in queues}
        self._agreed = features
        self._control.reset(self._first_mac, filters_vlans=bool(features & F_CTRL_VLAN))
        self._prepare_tap()
        control = self._queues.get(2 * self._pairs_most if features & F_MQ else 2)
        if features & F_CTRL_VQ and control is not None:
            self._control_queue = ServedQueue(
                self._loop, control, self._handle_control, self._queue_broken
            )
        if not self.is_resting:
            self._start()

    def deactivate(self) -> None:
        """Stop and forget the queues."""
        self._stop()
        self._queues = {}
        self._control_queue = None
        self._must_announce = False

    def quiesce(self) -> None:
        """Stop all pairs."""
        super().quiesce()
        self._stop()

    def resume(self) -> None:
        """Serve, as many pairs as the driver asked for."""
        super().resume()
        self._start()

    @property
    def obstacle(self) -> str | None:
        """What vhost-net has in flight is the kernel's."""
        return "vhost=on: the kernel's vhost-net cannot be saved" if self._vhosts else None

    def save(self) -> NetState:
        """The link, and what the driver has asked for over the control queue."""
        return NetState(
            first_mac=self._first_mac, link_up=self._link_up, must_announce=self._must_announce,
            control=self._control.save(),
        )  # fmt: skip

    def restore(self, state: NetState) -> None:
        """Go on as the card that was saved, and have the guest tell the network where it is."""
        if self._mac_is_given and self._first_mac != state.first_mac:
            raise SnapshotError(
                f"{self.name}: mac={self._first_mac.hex(':')} is given and the snapshot's card "
                f"has {state.first_mac.hex(':')}"
            )
        if self._vhosts:
            raise SnapshotError(f"{self.name}: {self.obstacle}, nor restored")
        if len(state.first_mac) != 6:
            raise SnapshotError(f"{self.name}: the snapshot's MAC address is damaged")
        self._first_mac = state.first_mac
        self._must_announce = state.must_announce
        self._control.restore(state.control)
        if self._queues:
            self._prepare_tap()
            self.announce()
        if self._link_up != state.link_up:
            self.config_changed()

    def _start(self) -> None:
        if not self._queues:
            return
        if self._control_queue is not None:
            self._control_queue.start()
        self._start_pairs()

    def _stop(self) -> None:
        if self._control_queue is not None:
            self._control_queue.stop()
        self._stop_pairs()

    def close(self) -> None:
        """Give tap and vhost devices back."""
        self._loop.unwatch(self._failure_fd)
        os.close(self._failure_fd)
        if self.back_end is not None:
            self.back_end.close()

    def _start_pairs(self) -> None:
        if self._running or not self._link_up or self.back_end is None:
            return
        try:
            for index in range(self._control.pairs):
                receive, transmit = self._queues.get(2 * index), self._queues.get(2 * index + 1)
                if receive is not None and transmit is not None:
                    pair = self._make_pair(index, self.back_end.tap.fds[index], receive, transmit)
                    pair.start()
                    self._running.append(pair)
        except OSError as error:
            self._queue_broken(str(error))

    def _make_pair(
        self, index: int, tap: int, receive: ActiveQueue, transmit: ActiveQueue
    ) -> EnginePair | VhostPair:
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
        return EnginePair(engine, self._iothread)

    def _stop_pairs(self) -> None:
        for pair in self._running:
            pair.stop()
        self._running = []

    def _handle_control(self, chain: DescriptorChain) -> bool:
        self._control.handle(chain)
        return True

    def _control_changed(self) -> None:
        """What the driver wants to receive, or over how many pairs, is different now."""
        if not self.is_resting:
            self._stop_pairs()
            if self.back_end is not None:
                self.back_end.tap.enable(self._control.pairs)
            self._start_pairs()

    def _queue_broken(self, reason: str) -> None:
        self._stop()
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
    back_end = NetBackEnd(netdev, vhost=options.vhost, vhostfds=options.vhostfds or options.vhostfd)
    pairs = len(back_end.tap.fds) if options.mq else 1
    card = Net(options.id or f"virtio-net({options.netdev})", pairs, options.mac, host)
    card.uses_kernel_interrupts = bool(back_end.vhosts)
    card.connect(back_end, None, host.iothread(options.iothread))
    return card
