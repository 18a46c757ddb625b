"""The keyboard controller (i8042) of a machine without keyboard: only its reset line."""

from __future__ import annotations

from stratovirt.snapshot.state import Stateless

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

DATA_PORT, COMMAND_PORT = 0, 4
"""Offsets from port 0x60."""
PORTS = 5
PULSE_RESET = 0xFE
NO_KEYBOARD = 0xC0
"""Status: parity error and time-out, which is how firmware tells that no keyboard answers; both
buffers are empty, so that a reset by the controller need not wait."""


class ResetController(Stateless):
    """Ports 0x60 and 0x64 of an i8042 with empty buffers; command 0xFE resets the machine."""

    def __init__(self, reset: Callable[[], None]) -> None:
        self._reset = reset

    def read(self, offset: int, _size: int) -> int:
        """The status of a controller without keyboard; zero at the data port."""
        # A status of zero would have firmware wait for a keyboard, again at each boot.
        return NO_KEYBOARD if offset == COMMAND_PORT else 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Pulse the reset line on command 0xFE; other writes are ignored."""
        if offset == COMMAND_PORT and size == 1 and value == PULSE_RESET:
            self._reset()
