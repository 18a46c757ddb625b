"""The vhost-user network back end: another process serves the rings in shared guest RAM."""

from __future__ import annotations

from stratovirt._native.vhost import F_LOG_ALL
from stratovirt.config.chardev import SocketChardev
from stratovirt.config.net import VhostUser as VhostUserOptions
from stratovirt.devices.device_host import DeviceHost
from stratovirt.errors import StratovirtError
from stratovirt.net.back_end import BackEnd, PairSetup
from stratovirt.runtime.faults import reason
from stratovirt.runtime.log import Log
from stratovirt.runtime.loop import HANGUP, READABLE
from stratovirt.runtime.sockets import UnixRequest
from stratovirt.runtime.threads import start_thread
from stratovirt.vhost.conversation import Conversation
from stratovirt.vhost.user import (
    PATIENCE_S,
    UNHURRIED_S,
    Inflight,
    MemoryRegion,
    VhostUser,
    VhostUserError,
)
from stratovirt.virtio.device import TRANSPORT_FEATURES, VERSION_1, ActiveQueue
from stratovirt.virtio.net_features import OF_THE_CARD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stratovirt._native.guest_memory import GuestMemory
    from stratovirt.config.chardev import Chardev
    from stratovirt.net.back_end import Pair

log = Log(__name__)

NO_LOG = "the back end cannot log what it writes"
LONGEST_PAUSE_S = 60
"""Longest pause in seconds between attempts to reconnect; it doubles after each failure."""


class VhostUserPair:
    """One queue pair served by the peer."""

    is_gone = False

    def __init__(self, back_end: VhostUserBackEnd, setup: PairSetup) -> None:
        self._back_end = back_end
        self._queues = {
            2 * setup.index: setup.receive,
            2 * setup.index + 1: setup.transmit,
        }

    def start(self) -> None:
        """Hand the rings over; raises OSError."""
        self._back_end.hand_over(self._queues)

    def stop(self) -> None:
        """Take the rings back, also when the peer is lost."""
        self._back_end.take_back(self._queues)


class VhostUserBackEnd(BackEnd):
    """A connection to a vhost-user peer, made again after a loss if `reconnect` is set.

    While there is no peer the card's link is down.  The next peer recovers the requests in flight
    of a lost one from the inflight file, or without one resumes at the used index.
    """

    uses_kernel_interrupts = True
    obstacle = "vhost-user: what the back end has in flight cannot be saved"

    def __init__(self, netdev: VhostUserOptions, chardev: Chardev, host: DeviceHost) -> None:
        super().__init__(netdev)
        if not isinstance(chardev, SocketChardev) or chardev.path is None or chardev.server:
            raise StratovirtError(
                f"{self.source},chardev={netdev.chardev}: must be a -chardev socket with a path, "
                "and not a server"
            )
        self._path, self._reconnect_s = chardev.path, chardev.reconnect
        self._loop = host.loop
        self._access = host.access
        self._clock = host.clock
        self._memory = host.memory
        self._regions = _shared_regions(host.memory, self.source)
        self._rings: dict[int, ActiveQueue] = {}
        """The rings that the peer has."""
        self._is_closed = False
        self._pause_s = self._reconnect_s
        self._agreed = 0
        self._inflight: Inflight | None = None
        self._talk: Conversation | None = None
        """The message queue to the peer; None while there is no peer."""
        self._offered = 0

    def meet(self) -> VhostUser:
        """Connect to the first peer; raises StratovirtError.

        The peer may be slow to answer: while a machine runs, do not call this under the lock.
        """
        try:
            return self._connect()
        except OSError as error:
            raise StratovirtError(
                f"{self.source}: cannot use the back end at {self._path}: {error.strerror}"
            ) from error

    def begin(self, peer: VhostUser) -> None:
        """Start with the first peer; raises StratovirtError if it lacks features or queues."""
        self._offered = peer.features
        if not self._offered & VERSION_1:
            peer.close()
            raise StratovirtError(f"{self.source}: the back end has no VIRTIO_F_VERSION_1")
        if self.pairs > peer.queues:
            peer.close()
            raise StratovirtError(
                f"{self.source},queues={self.pairs}: the back end has {peer.queues}"
            )
        self._use(peer)
        self._memory.add_writer(self)

    def _connect(self) -> VhostUser:
        connection = self._access.open(UnixRequest(path=self._path))
        try:
            return VhostUser(connection)
        except VhostUserError:
            connection.close()
            raise

    def _use(self, peer: VhostUser) -> None:
        talk = Conversation(peer, self._loop, lambda: self._said(talk))
        self._talk = talk
        self._loop.watch(peer.fd, READABLE, self._heard)

    def _say(self, part: Callable[[VhostUser], None], patience_s: float = UNHURRIED_S) -> None:
        """Queue messages to the peer, sent by another thread; a failure goes to `_lost`."""
        if self._talk is None:
            return
        peer = self._talk.peer

        def say() -> None:
            peer.begin(patience_s)
            part(peer)

        # Input is now an answer, which the conversation's thread reads.
        self._loop.unwatch(peer.fd)
        self._talk.say(say)

    def _said(self, talk: Conversation) -> None:
        if talk is not self._talk:
            return
        if talk.failure is not None:
            self._lost(talk.failure)
        elif not talk.is_going:
            self._loop.watch(talk.peer.fd, READABLE, self._heard)

    @property
    def is_up(self) -> bool:
        """Whether a peer is connected."""
        return self._talk is not None

    @property
    def pairs(self) -> int:
        """The -netdev's `queues`."""
        queues: int = self.netdev.queues
        return queues

    def features(self, card: int) -> int:
        """Features that the card implements itself, and of the others those the peer offers."""
        return card & (OF_THE_CARD | self._offered)

    @property
    def ring_features(self) -> int:
        """Ring features that the peer offers."""
        return TRANSPORT_FEATURES & self._offered

    def prepare(self, agreed: int, _pairs: int) -> None:
        """Send the negotiated features and the memory table to the peer."""
        self._agreed = agreed
        logged = self._memory.is_logged

        def tell(peer: VhostUser) -> None:
            self._tell_features(peer, logged)
            peer.set_memory(self._regions)

        self._say(tell)

    def _tell_features(self, peer: VhostUser, logged: bool) -> None:
        if logged and peer.can_log:
            peer.set_log(self._memory.log_fd, self._memory.log_size)
            peer.set_features(self._agreed & self._offered | F_LOG_ALL)
        else:
            if logged:
                self._memory.note_log_gap(f"{self.source}: {NO_LOG}")
            peer.set_features(self._agreed & self._offered)

    @property
    def log_obstacle(self) -> str | None:
        """Why the peer cannot log its writes; None when it can, or when there is none."""
        if self._talk is None or self._talk.peer.can_log:
            return None
        return f"{self.source}: {NO_LOG}"

    def start_log(self) -> Callable[[], None] | None:
        """Ask the peer to log its writes in the log's file; one that fails is lost."""
        self._set_logged(True)
        talk = self._talk
        if talk is None:
            return None

        def wait() -> None:
            talk.settle()
            if talk.failure is not None:
                # It may be there, and write without a log.
                raise VhostUserError(0, f"{self.source}: {talk.failure}")

        return wait

    def collect_log(self) -> None:
        """Does nothing: the peer sets the bits itself."""

    def stop_log(self) -> None:
        """Tell the peer to log no more; bits that it sets until it does are harmless."""
        self._set_logged(False)

    def _set_logged(self, logged: bool) -> None:
        if not self._agreed:
            # `prepare` comes later, and tells the peer.
            return
        rings = dict(self._rings)

        def tell(peer: VhostUser) -> None:
            self._tell_features(peer, logged)
            for index, queue in rings.items():
                peer.set_ring_address(index, queue.ring, logged and peer.can_log)

        # Whoever starts the log waits for it.
        self._say(tell, PATIENCE_S)

    def make_pair(self, setup: PairSetup) -> Pair:
        """A pair that the peer serves."""
        return VhostUserPair(self, setup)

    def hand_over(self, queues: dict[int, ActiveQueue]) -> None:
        """Queue the messages that hand these rings to the peer; returns at once."""
        self._rings |= queues
        logged = self._memory.is_logged

        def give(peer: VhostUser) -> None:
            self._share_inflight(peer, max(queue.ring.size for queue in queues.values()))
            for index, queue in queues.items():
                fds = queue.kick_fd, queue.notifier.fd
                peer.set_ring(index, queue.ring, *fds, logged and peer.can_log)
            for index in queues:
                peer.enable_ring(index, True)
            # The pause starts over only after a peer that got as far as serving.
            self._pause_s = self._reconnect_s

        self._say(give)

    def _share_inflight(self, peer: VhostUser, ring_size: int) -> None:
        count = 2 * self.pairs
        if self._inflight is None:
            self._inflight = peer.ask_inflight(count, ring_size)
        if self._inflight is not None:
            peer.set_inflight(self._inflight, count, ring_size)

    def take_back(self, queues: dict[int, ActiveQueue]) -> None:
        """Stop the rings and set their positions; for a lost peer, the position is the used index.

        Waits for the peer: it must not access guest memory of the rings after this has returned.
        """
        self._rings = {index: ring for index, ring in self._rings.items() if index not in queues}
        if self._talk is not None:
            self._talk.settle()
            if self._talk.failure is not None:
                self._lost(self._talk.failure)
        if self._talk is not None:
            self._talk.peer.begin()
        for index, queue in queues.items():
            used = queue.ring.used_index
            position = used
            if self._talk is not None:
                try:
                    position = self._talk.peer.take_back(index)
                    used = queue.ring.used_index
                except VhostUserError as error:
                    self._lost(str(error.strerror))
            queue.ring.position = (position, used)
        if self._talk is not None and self._inflight is not None:
            # No request is in flight: the next start gets a new file.
            self._inflight.close()
            self._inflight = None

    def _heard(self, events: int) -> None:
        """The socket has an event; a peer sends no requests, so it has hung up or is faulty."""
        if self._talk is None or self._talk.peer.is_silent():
            # The event was an answer, which the asking vCPU has read meanwhile.
            return
        self._lost("it hung up" if events & HANGUP else "it spoke out of turn or hung up")

    def _lost(self, reason: str) -> None:
        if self._talk is None:
            return
        log.warn(f"{self.source}: the back end is lost: {reason}; the link is down")
        self._loop.unwatch(self._talk.peer.fd)
        self._talk.peer.close()
        self._talk = None
        # Not at once: the caller may be in the middle of an operation on the peer.
        self._loop.call_soon(self.link_changed)
        self._reconnect_later()

    def _reconnect_later(self) -> None:
        if self._reconnect_s and not self._is_closed:
            due_ns = self._clock.now_ns() + self._pause_s * 1_000_000_000
            self._pause_s = min(2 * self._pause_s, max(LONGEST_PAUSE_S, self._reconnect_s))
            self._clock.call_at(due_ns, self._reconnect)

    def _reconnect(self) -> None:
        # Not in the loop: a peer may take all of its time to answer, and the machine runs on.
        if not self._is_closed:
            start_thread("vhost-connect", self._try_to_connect)

    def _try_to_connect(self) -> None:
        found: VhostUser | str
        try:
            found = self._connect()
        except (OSError, StratovirtError) as error:
            found = reason(error)
        self._loop.call_soon(lambda: self._tried(found))

    def _tried(self, found: VhostUser | str) -> None:
        if isinstance(found, str):
            log.debug(f"{self.source}: still no back end: {found}")
            self._reconnect_later()
            return
        peer = found
        if self._is_closed:
            peer.close()
            return
        lacking = self._agreed & self._offered & ~peer.features
        if lacking or peer.queues < self.pairs:
            log.warn(f"{self.source}: this back end cannot take over: it lacks 0x{lacking:x}")
            peer.close()
            self._reconnect_later()
            return
        self._use(peer)
        self.link_changed()

    def close(self) -> None:
        """Close the connection and stop reconnecting."""
        self._is_closed = True
        if self in self._memory.writers:
            self._memory.remove_writer(self)
        if self._talk is not None:
            self._loop.unwatch(self._talk.peer.fd)
            self._talk.settle()
            self._talk.peer.close()
            self._talk = None
        if self._inflight is not None:
            self._inflight.close()


def _shared_regions(memory: GuestMemory, source: str) -> list[MemoryRegion]:
    """All guest RAM as regions of files; raises StratovirtError when some is not shared."""
    regions = []
    for gpa, size, hva, fd, file_offset, is_shared in memory.files():
        if not is_shared or fd < 0:
            raise StratovirtError(
                f"{source}: the back end cannot see guest memory; give -machine mem-share=on"
            )
        regions.append(MemoryRegion(gpa, size, hva, fd, file_offset))
    return regions
