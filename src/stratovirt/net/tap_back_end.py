"""The tap as a network card's back end, served by our engine or by the kernel's vhost-net."""

from __future__ import annotations

import errno

from stratovirt._native import tap as tun
from stratovirt._native.net_engine import NetEngine
from stratovirt._native.vhost import F_LOG_ALL, VhostDevice
from stratovirt.config import net as config
from stratovirt.errors import StratovirtError
from stratovirt.net.back_end import BackEnd, PairSetup
from stratovirt.net.tap import Tap
from stratovirt.runtime.descriptors import DescriptorError, take_descriptors
from stratovirt.virtio.device import TRANSPORT_FEATURES
from stratovirt.virtio.engine_thread import EngineThread
from stratovirt.virtio.net_features import (
    F_CTRL_RX,
    F_GUEST_CSUM,
    F_GUEST_ECN,
    F_GUEST_TSO4,
    F_GUEST_TSO6,
    F_GUEST_UFO,
    F_HOST_UFO,
    F_MRG_RXBUF,
    FILTERS,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.host.access import HostAccess
    from stratovirt.net.back_end import Pair
    from stratovirt.runtime.io_thread import IoThread

TAP_OFFLOADS = {
    F_GUEST_CSUM: tun.OFFLOAD_CSUM,
    F_GUEST_TSO4: tun.OFFLOAD_TSO4,
    F_GUEST_TSO6: tun.OFFLOAD_TSO6,
    F_GUEST_ECN: tun.OFFLOAD_ECN,
    F_GUEST_UFO: tun.OFFLOAD_UFO,
}
"""TUN offload flag for each negotiated guest-offload feature."""


class EnginePair:
    """One queue pair served by our engine."""

    def __init__(self, engine: NetEngine, iothread: IoThread | None, card: str) -> None:
        self._engine = engine
        self._iothread = iothread
        self._name = f"net-{card}"
        self._thread: EngineThread | None = None

    def start(self) -> None:
        """Start serving; raises OSError."""
        self._thread = EngineThread(self._engine, self._iothread, self._name)

    def stop(self) -> None:
        """Stop serving; when this returns no request is in flight."""
        if self._thread is not None:
            self._thread.stop()

    @property
    def is_gone(self) -> bool:
        """Whether the tap was deleted."""
        return self._engine.tap_is_gone


class VhostPair:
    """One queue pair served by the kernel's vhost-net."""

    is_gone = False

    def __init__(self, vhost: VhostDevice, tap: int, setup: PairSetup, source: str) -> None:
        self._vhost, self._tap, self._source = vhost, tap, source
        self._queues = setup.receive, setup.transmit
        self._memory = setup.memory
        self._offered = vhost.get_features()
        self._features = setup.agreed & self._offered

    def start(self) -> None:
        """Hand the rings over; raises OSError."""
        self._vhost.set_features(self._features)
        self._vhost.set_memory(self._memory)
        self._memory.add_writer(self)
        try:
            logged = self._memory.is_logged and self.log_obstacle is None
            for index, queue in enumerate(self._queues):
                fds = queue.kick_fd, queue.notifier.fd
                self._vhost.set_ring(index, queue.ring, *fds, logged)
            for index in (0, 1):
                self._vhost.set_net_backend(index, self._tap)
        except OSError:
            self._memory.remove_writer(self)
            raise

    def stop(self) -> None:
        """Take the rings back, with the kernel's ring positions."""
        for index, queue in enumerate(self._queues):
            self._vhost.set_net_backend(index, -1)
            self._vhost.take_back(index, queue.ring)
        self._memory.remove_writer(self)

    @property
    def log_obstacle(self) -> str | None:
        """Why the kernel cannot log its writes; None when it can."""
        if self._offered & F_LOG_ALL:
            return None
        return f"{self._source}: the kernel's vhost-net has no log of writes"

    def start_log(self) -> None:
        """Have the kernel log its writes in guest memory's log; raises OSError."""
        if self.log_obstacle is None:
            self._vhost.set_log(self._memory)
            self._set_logged(True)

    def collect_log(self) -> None:
        """Does nothing: the kernel sets the bits itself."""

    def stop_log(self) -> None:
        """End the kernel's log; raises OSError."""
        self._set_logged(False)

    def _set_logged(self, logged: bool) -> None:
        self._vhost.set_features(self._features | (F_LOG_ALL if logged else 0))
        for index, queue in enumerate(self._queues):
            self._vhost.set_ring_address(index, queue.ring, logged)


class TapBackEnd(BackEnd):
    """An open tap; `vhosts` has a vhost-net device for each of its queues, or is empty."""

    def __init__(
        self,
        netdev: config.Tap,
        host: HostAccess,
        *,
        vhost: bool = False,
        vhostfds: tuple[str, ...] = (),
    ) -> None:
        super().__init__(netdev)
        self._host = host
        given = netdev.vhostfds or netdev.vhostfd or vhostfds
        wanted = [("vhostfd", name) for name in given]
        wanted += [("fd", name) for name in netdev.fds or netdev.fd]
        # All descriptors are taken before any check, so each error path closes them.
        try:
            fds = take_descriptors(wanted)
        except DescriptorError as error:
            raise StratovirtError(f"{self.source},{error}") from error
        self.vhosts = [VhostDevice(fd) for fd in fds[: len(given)]]
        try:
            self.tap = Tap(netdev, host, fds[len(given) :])
        except Exception:
            self._close_vhosts()
            raise
        try:
            if given:
                self._check_given(netdev.vhost or vhost)
            if netdev.vhost or vhost:
                self._own_vhosts()
        except Exception:
            self.close()
            raise

    @property
    def uses_kernel_interrupts(self) -> bool:  # type: ignore[override]
        """Whether vhost-net serves the queues."""
        return bool(self.vhosts)

    @property
    def obstacle(self) -> str | None:  # type: ignore[override]
        """With vhost-net: its requests in flight are in the kernel and cannot be saved."""
        return "vhost=on: the kernel's vhost-net cannot be saved" if self.vhosts else None

    @property
    def pairs(self) -> int:
        """One for each queue of the tap."""
        return len(self.tap.fds)

    def features(self, card: int) -> int:
        """Add UFO if the tap has it, filters for our engine; drop MRG_RXBUF if vhost lacks it."""
        if self.tap.has_ufo:
            card |= F_GUEST_UFO | F_HOST_UFO
        if not self.vhosts:
            card |= FILTERS
        elif not self.vhosts[0].get_features() & F_MRG_RXBUF:
            card &= ~F_MRG_RXBUF
        return card

    @property
    def ring_features(self) -> int:
        """All, or with vhost-net those that the kernel offers."""
        if not self.vhosts:
            return TRANSPORT_FEATURES
        return TRANSPORT_FEATURES & self.vhosts[0].get_features()

    def prepare(self, agreed: int, pairs: int) -> None:
        """Set the tap's offloads and the number of queues it uses; raises OSError."""
        self.tap.set_offload(
            sum(flag for feature, flag in TAP_OFFLOADS.items() if agreed & feature)
        )
        self.tap.enable(pairs)

    def make_pair(self, setup: PairSetup) -> Pair:
        """A pair served by vhost-net if there is one, else by our engine."""
        receive, transmit = setup.receive, setup.transmit
        tap = self.tap.fds[setup.index]
        if self.vhosts:
            return VhostPair(self.vhosts[setup.index], tap, setup, self.source)
        engine = NetEngine(
            receive.ring,
            receive.kick_fd,
            transmit.ring,
            transmit.kick_fd,
            receive.notifier,
            transmit.notifier,
            tap,
            mergeable=bool(setup.agreed & F_MRG_RXBUF),
            failure_fd=setup.failure_fd,
        )
        if setup.agreed & F_CTRL_RX:
            setup.control.apply(engine)
        return EnginePair(engine, setup.iothread, setup.card)

    def close(self) -> None:
        """Close the tap and the vhost devices."""
        self._close_vhosts()
        self.tap.close()

    def _close_vhosts(self) -> None:
        for vhost in self.vhosts:
            vhost.close()
        self.vhosts.clear()

    def _check_given(self, is_wanted: bool) -> None:
        if not is_wanted:
            raise StratovirtError(f"{self.source}: vhost descriptors need vhost=on")
        count = len(self.tap.fds)
        if len(self.vhosts) != count:
            raise StratovirtError(f"{self.source}: {count} queues need as many vhost descriptors")

    def _own_vhosts(self) -> None:
        from stratovirt.net.vhost_net import VhostNetRequest

        try:
            while len(self.vhosts) < len(self.tap.fds):
                self.vhosts.append(VhostDevice(self._host.open(VhostNetRequest())))
            for vhost in self.vhosts:
                vhost.set_owner()
        except OSError as error:
            hint = "; load the module vhost_net" if error.errno == errno.ENOENT else ""
            raise StratovirtError(
                f"{self.source}: cannot use vhost-net: {error.strerror}{hint}"
            ) from error
