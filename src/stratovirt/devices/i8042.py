"""The keyboard controller's one job on a machine without keyboard: the reset line."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

DATA_PORT, COMMAND_PORT = 0, 4
"""Offsets from port 0x60."""
PORTS = 5
PULSE_RESET = 0xFE


class ResetController:
    """Ports 0x60 and 0x64 of an i8042 with empty buffers; command 0xFE resets the machine."""

    def __init__(self, reset: Callable[[], None]) -> None:
        self._reset = reset

    def read(self, _offset: int, _size: int) -> int:
        """Both buffers are always empty, so every register reads zero."""
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Pulse the reset line on command 0xFE; there is nothing else to command."""
        if offset == COMMAND_PORT and size == 1 and value == PULSE_RESET:
            self._reset()
