"""Network card (virtio 1.2, section 5.1): queue pairs on a tap, by our engine or by vhost-net."""

from __future__ import annotations

import os
import struct

from stratovirt._native.virtqueue import DescriptorChain
from stratovirt.config.buses import DeviceId
from stratovirt.config.devices import QUEUE_SIZE
from stratovirt.config.options import opt
from stratovirt.devices.device_host import DeviceHost
from stratovirt.net.back_end import BackEnd, PairSetup
from stratovirt.runtime.eventfds import forget_signal, take_signal
from stratovirt.runtime.log import Log
from stratovirt.runtime.loop import READABLE, Loop
from stratovirt.snapshot.errors import SnapshotError
from stratovirt.snapshot.state import FLAG, Bytes, State, Struct
from stratovirt.virtio.device import TRANSPORT_FEATURES, ActiveQueue, VirtioDevice
from stratovirt.virtio.net_control import NetControl, NetControlState
from stratovirt.virtio.net_features import (
    CARD,
    F_CTRL_VLAN,
    F_CTRL_VQ,
    F_GUEST_ANNOUNCE,
    F_MQ,
    FILTERS,
    NEEDS,
)
from stratovirt.virtio.served_queue import ServedQueue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.net.back_end import Pair
    from stratovirt.runtime.io_thread import IoThread

log = Log(__name__)

CONFIG = struct.Struct("<6sHHH")
"""mac, status, max_virtqueue_pairs, mtu."""
LINK_UP, ANNOUNCE = 1, 2
"""Bits of status."""
OWN_PREFIX = bytes.fromhex("525400")
"""Locally administered prefix, as in QEMU; the other three bytes of an address are random."""


class NetState(State):
    """The card's own address, its link, and the settings of the control queue."""

    first_mac: bytes = opt(Bytes(6))
    link_up: bool = opt(FLAG)
    must_announce: bool = opt(FLAG)
    control: NetControlState = opt(Struct(NetControlState))


class Net(VirtioDevice):
    """One card. Its back end may be connected and removed; without one the link is down."""

    device_id = DeviceId.NET
    feature_needs = NEEDS
    state_type = NetState

    def __init__(
        self,
        name: str,
        pairs: int,
        mac: bytes | None,
        host: DeviceHost,
        *,
        queue_size: int = QUEUE_SIZE,
    ) -> None:
        super().__init__()
        self.name = name
        self._loop: Loop = host.loop
        self._memory = host.memory
        self.back_end: BackEnd | None = None
        self._iothread: IoThread | None = None
        self._pairs_most = pairs
        self._queue_size = queue_size
        self._first_mac = mac or OWN_PREFIX + os.urandom(3)
        self._mac_is_given = mac is not None
        self._link_up = False
        self._must_announce = False
        self._queues: dict[int, ActiveQueue] = {}
        self._agreed = 0
        self._control_queue: ServedQueue | None = None
        self._running: list[Pair] = []
        self._control = NetControl(self._first_mac, pairs, self._control_changed, self._announced)
        self._failure_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._loop.watch(self._failure_fd, READABLE, self._engine_failed, self._fault)

    @property
    def queue_sizes(self) -> tuple[int, ...]:
        """Receive and transmit for each pair, and control."""
        return (*(self._queue_size,) * (2 * self._pairs_most), QUEUE_SIZE)

    @property
    def features(self) -> int:
        """Offloads of the tap, control, filters of our engine, several pairs when asked for."""
        features = CARD | (F_MQ if self._pairs_most > 1 else 0)
        return features | FILTERS if self.back_end is None else self.back_end.features(features)

    @property
    def transport_features(self) -> int:
        """Ring features that the back end can serve."""
        return TRANSPORT_FEATURES if self.back_end is None else self.back_end.ring_features

    def config_space(self) -> bytes:
        """struct virtio_net_config up to mtu (section 5.1.4)."""
        status = (LINK_UP if self._link_up else 0) | (ANNOUNCE if self._must_announce else 0)
        # A driver at work keeps the address it has read, or set.
        mac = self._control.mac if self._queues else self._first_mac
        return CONFIG.pack(mac, status, self._pairs_most, 0)

    def connect(self, back_end: BackEnd, mac: bytes | None, iothread: IoThread | None) -> None:
        """Connect a back end, which the device owns from now on."""
        self.back_end, self._iothread = back_end, iothread
        self._first_mac = mac or self._first_mac
        self._link_up = back_end.is_up
        back_end.link_changed = self._link_changed
        if self._queues:
            self._prepare_back_end()
            self.announce()
            if not self.is_resting:
                self._start_pairs()
        self.config_changed()

    @property
    def pairs_most(self) -> int:
        """Queue pairs that the guest may use."""
        return self._pairs_most

    def disconnect(self) -> BackEnd:
        """Disconnect the back end; the caller owns it again."""
        assert self.back_end is not None
        self._stop_pairs()
        back_end, self.back_end = self.back_end, None
        back_end.link_changed = lambda: None
        self._iothread = None
        self._link_up = False
        self.config_changed()
        return back_end

    def _link_changed(self) -> None:
        """The back end's peer connected or was lost."""
        assert self.back_end is not None
        self._link_up = self.back_end.is_up
        if not self._link_up:
            self._stop_pairs()
        elif self._queues and not self.is_resting:
            self._prepare_back_end()
            self._start_pairs()
        self.config_changed()

    def announce(self) -> None:
        """Ask the driver to announce its address to the network (section 5.1.6.5.4)."""
        if self._agreed & F_GUEST_ANNOUNCE and self._link_up:
            self._must_announce = True
            self.config_changed()

    def _announced(self) -> None:
        self._must_announce = False

    def _prepare_back_end(self) -> None:
        if self.back_end is None or not self._link_up:
            return
        try:
            self.back_end.prepare(self._agreed, self._control.pairs)
        except OSError as error:
            self._lose_link(str(error.strerror))

    def _lose_link(self, why: str) -> None:
        """The back end has failed: stop all queue pairs and set the link down."""
        log.warn(f"{self.name}: {why}; the link is down")
        self._stop_pairs()
        self._link_up = False
        self.config_changed()

    def activate(self, queues: list[ActiveQueue], features: int) -> None:
        """Start with one pair; the driver asks for more over the control queue."""
        self._queues = {queue.index: queue for queue in queues}
        self._agreed = features
        self._control.reset(self._first_mac, filters_vlans=bool(features & F_CTRL_VLAN))
        self._prepare_back_end()
        control = self._queues.get(2 * self._pairs_most if features & F_MQ else 2)
        if features & F_CTRL_VQ and control is not None:
            self._control_queue = ServedQueue(
                self._loop, control, self._handle_control, self._queue_broken, self.failed
            )
        if not self.is_resting:
            self._start()

    def deactivate(self) -> None:
        """Stop serving and drop the queues."""
        self._stop()
        self._queues = {}
        self._control_queue = None
        self._must_announce = False

    def quiesce(self) -> None:
        """Stop the control queue and all pairs."""
        super().quiesce()
        self._stop()

    def resume(self) -> None:
        """Serve the control queue and as many pairs as the driver has enabled."""
        super().resume()
        self._start()

    @property
    def obstacle(self) -> str | None:
        """Why the back end's state cannot be saved; None when it can."""
        return self.back_end.obstacle if self.back_end is not None else None

    def save(self) -> NetState:
        """The address, the link and the settings of the control queue."""
        return NetState(
            first_mac=self._first_mac, link_up=self._link_up, must_announce=self._must_announce,
            control=self._control.save(),
        )  # fmt: skip

    def restore(self, state: NetState) -> None:
        """Restore the saved card and ask the driver to announce itself; raises SnapshotError."""
        if self._mac_is_given and self._first_mac != state.first_mac:
            raise SnapshotError(
                f"{self.name}: mac={self._first_mac.hex(':')} is given and the snapshot's card "
                f"has {state.first_mac.hex(':')}"
            )
        if self.obstacle is not None:
            raise SnapshotError(f"{self.name}: {self.obstacle}, nor restored")
        if len(state.first_mac) != 6:
            raise SnapshotError(f"{self.name}: the snapshot's MAC address is damaged")
        self._first_mac = state.first_mac
        self._must_announce = state.must_announce
        self._control.restore(state.control)
        if self._queues:
            self._prepare_back_end()
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
        """Close the back end and the failure eventfd."""
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
                    setup = PairSetup(
                        index, receive, transmit, agreed=self._agreed, memory=self._memory,
                        iothread=self._iothread, control=self._control,
                        failure_fd=self._failure_fd, card=self.name,
                    )  # fmt: skip
                    pair = self.back_end.make_pair(setup)
                    pair.start()
                    self._running.append(pair)
        except OSError as error:
            self._queue_broken(str(error))

    def _stop_pairs(self) -> None:
        running, self._running = self._running, []
        for pair in running:
            pair.stop()
        # A failure signalled by these pairs does not concern the next ones.
        forget_signal(self._failure_fd)

    def _handle_control(self, chain: DescriptorChain) -> bool:
        self._control.handle(chain)
        return True

    def _control_changed(self) -> None:
        """A control command was done: restart the pairs with the new settings."""
        if not self.is_resting:
            self._stop_pairs()
            self._prepare_back_end()
            self._start_pairs()

    def _queue_broken(self, reason: str) -> None:
        self._stop()
        self.broken(reason)

    def _fault(self, error: Exception) -> None:
        self.failed(error)

    def _engine_failed(self, _events: int) -> None:
        if not take_signal(self._failure_fd):
            return
        gone = any(pair.is_gone for pair in self._running)
        reasons = [queue.ring.failure for queue in self._queues.values() if queue.ring.failure]
        self._stop_pairs()
        if reasons:
            self._queue_broken(reasons[0])
        elif gone:
            self._lose_link("the tap was deleted")
