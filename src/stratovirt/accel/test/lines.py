"""Interrupt lines and messages of the test accelerator, kept until the client asks for them."""

from __future__ import annotations

from stratovirt.runtime.eventfds import new_eventfd, take_signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.snapshot.state import NoState

FIRST_MSI_GSI = 24
MESSAGES_KEPT = 4096


class TestLines:
    """The lines' levels, the MSI routes, and the messages that were sent.

    It is the interrupt controller as well, one that hands on nothing by itself.
    """

    __test__ = False  # not a test class, whatever pytest makes of its name

    def __init__(self) -> None:
        self._levels: dict[int, bool] = {}
        self._irqfds: dict[int, int] = {}
        self._routes: dict[int, tuple[int, int, int]] = {}
        self._messages: list[tuple[int, int, int]] = []
        """(address, data, requester) of each message that was sent, the oldest first."""

    def create(self) -> None:
        """Does nothing: levels and messages are kept here from the start."""

    def reset(self) -> None:
        """Does nothing: lines follow the devices, which are reset."""

    @property
    def state_type(self) -> type[NoState]:
        """Type of the state that `save` returns."""
        from stratovirt.snapshot.state import NoState

        return NoState

    def save(self) -> NoState:
        """No state: what was sent is the client's."""
        return self.state_type()

    def restore(self, state: NoState) -> None:
        """Does nothing."""

    def set_irq_level(self, gsi: int, level: bool) -> None:
        """Set the level of a line."""
        self._levels[gsi] = level

    def irqfd(self, gsi: int) -> int:
        """A new eventfd whose writes pulse the GSI."""
        fd = new_eventfd()
        self._irqfds[fd] = gsi
        return fd

    def attach_irqfd(self, fd: int, gsi: int) -> None:
        """Let writes to eventfd `fd` pulse the GSI, earlier unread writes too."""
        self._irqfds[fd] = gsi

    def detach_irqfd(self, fd: int, _gsi: int) -> None:
        """Undo `attach_irqfd`; later writes stay in the eventfd."""
        self._collect_irqfds()
        del self._irqfds[fd]

    def attach_line(self, fd: int, gsi: int, _resample_fd: int) -> None:
        """Let writes to `fd` raise a level-triggered GSI, which the client lowers (eoi_intx)."""
        self.attach_irqfd(fd, gsi)

    def detach_line(self, fd: int, gsi: int, _resample_fd: int) -> None:
        """Undo `attach_line`."""
        self.detach_irqfd(fd, gsi)

    def add_msi_route(self, address: int, data: int, requester: int) -> int:
        """Allocate a GSI that sends the MSI message."""
        gsi = max(self._routes, default=FIRST_MSI_GSI - 1) + 1
        self._routes[gsi] = address, data, requester
        return gsi

    def change_msi_route(self, gsi: int, address: int, data: int, requester: int) -> None:
        """Change the message of a GSI of `add_msi_route`."""
        self._collect_irqfds()
        self._routes[gsi] = address, data, requester

    def remove_msi_route(self, gsi: int) -> None:
        """Undo `add_msi_route`; the caller has detached every eventfd."""
        del self._routes[gsi]

    def take_message(self, address: int, data: int, requester: int | None) -> bool:
        """Forget one such message, of any sender or of `requester`; whether there was one."""
        self._collect_irqfds()
        for message in self._messages:
            if message[:2] == (address, data) and requester in (None, message[2]):
                self._messages.remove(message)
                return True
        return False

    def level(self, gsi: int) -> bool:
        """Whether the line is up, or was pulsed since it was taken down."""
        self._collect_irqfds()
        return self._levels.get(gsi, False)

    def take_down(self, gsi: int) -> bool:
        """Lower the line as an end of interrupt does; whether it was up."""
        was_up = self.level(gsi)
        self._levels[gsi] = False
        return was_up

    def _collect_irqfds(self) -> None:
        for fd, gsi in self._irqfds.items():
            if not take_signal(fd):
                continue
            if gsi in self._routes:
                # The oldest are dropped: a client that never queries must not use up memory.
                self._messages = [*self._messages[1 - MESSAGES_KEPT :], self._routes[gsi]]
            else:
                self._levels[gsi] = True
