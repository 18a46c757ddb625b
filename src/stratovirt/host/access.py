"""The single interface by which a running machine opens host files, sockets and devices."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol, TypeVar

    from stratovirt.host.request import Opened, Request

    T = TypeVar("T")

    class Broker(Protocol):
        """The process that opens files for a locked-down machine: see host.line.BrokerLine."""

        def open(self, request: Request[Any]) -> Opened:
            """Have the request opened; raises StratovirtError and OSError."""


class HostAccess:
    """Opens requests itself until `use`, by the broker from then on.

    Errors are the same in both cases: StratovirtError with a text for the user, or OSError.
    """

    def __init__(self) -> None:
        self._broker: Broker | None = None

    def use(self, broker: Broker) -> None:
        """Switch to the broker: from now on this process may open nothing."""
        self._broker = broker

    def open(self, request: Request[T]) -> T:
        """Open what `request` describes; from any thread."""
        opened = request.open() if self._broker is None else self._broker.open(request)
        return request.receive(opened)
