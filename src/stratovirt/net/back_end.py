"""The contract between a network card and its back end."""

from __future__ import annotations

from abc import ABC, abstractmethod

from stratovirt.virtio.device import TRANSPORT_FEATURES, ActiveQueue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from stratovirt._native.guest_memory import GuestMemory
    from stratovirt.runtime.io_thread import IoThread
    from stratovirt.virtio.net_control import NetControl

    class Pair(Protocol):
        """A queue pair that is served while the driver wants it."""

        @property
        def is_gone(self) -> bool:
            """Whether the host deleted the tap."""

        def start(self) -> None:
            """Start serving; raises OSError."""

        def stop(self) -> None:
            """Stop serving; when this returns no request is in flight."""


class PairSetup:
    """Parameters with which a back end serves queue pair `index`."""

    def __init__(
        self,
        index: int,
        receive: ActiveQueue,
        transmit: ActiveQueue,
        *,
        agreed: int,
        memory: GuestMemory,
        iothread: IoThread | None,
        control: NetControl,
        failure_fd: int,
        card: str,
    ) -> None:
        self.card = card
        self.index, self.receive, self.transmit = index, receive, transmit
        self.agreed, self.memory, self.iothread = agreed, memory, iothread
        self.control, self.failure_fd = control, failure_fd


class BackEnd(ABC):
    """The contract between a network card and its back end.

    `link_changed` is called in the loop when the back end's peer connects or is lost.
    """

    uses_kernel_interrupts = False
    """Whether the kernel or another process raises the queues' interrupts."""
    obstacle: str | None = None
    """Why a machine with it cannot be saved; None when it can."""

    def __init__(self, netdev: Any) -> None:
        self.netdev = netdev
        self.source = f"{netdev.flag},id={netdev.id}"
        self.link_changed: Callable[[], None] = lambda: None

    @property
    def is_up(self) -> bool:
        """Whether a peer is connected, so that the card's link is up."""
        return True

    @property
    @abstractmethod
    def pairs(self) -> int:
        """Number of queue pairs it can serve."""

    @abstractmethod
    def features(self, card: int) -> int:
        """The feature bits `card`, with those this back end adds and without those it lacks."""

    @property
    def ring_features(self) -> int:
        """Ring features it can serve."""
        return TRANSPORT_FEATURES

    @abstractmethod
    def prepare(self, agreed: int, pairs: int) -> None:
        """Set the negotiated features and the number of pairs; raises OSError."""

    @abstractmethod
    def make_pair(self, setup: PairSetup) -> Pair:
        """The object that serves a queue pair once started; raises OSError."""

    @abstractmethod
    def close(self) -> None:
        """Close its host resources."""
