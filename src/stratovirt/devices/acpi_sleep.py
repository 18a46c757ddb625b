"""Sleep control and status of a hardware-reduced ACPI machine (ACPI 6.5, section 4.8.3.7)."""

from __future__ import annotations

from stratovirt.snapshot.state import Stateless

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

CONTROL, STATUS = 0, 1
REGISTERS = 2
SLEEP_ENABLE = 1 << 5
SLEEP_TYPE_SHIFT, SLEEP_TYPE_MASK = 2, 7
SLEEP_TYPE_S5 = 5
"""The value that this machine's \\_S5 object gives."""


class SleepController(Stateless):
    """Entering S5 powers the machine off; other sleep states do not exist."""

    def __init__(self, power_off: Callable[[], None]) -> None:
        self._power_off = power_off

    def read(self, _offset: int, _size: int) -> int:
        """Control reads zero; in status, WAK_STS is never set because nothing sleeps."""
        return 0

    def write(self, offset: int, _size: int, value: int) -> None:
        """Power the machine off on SLP_EN with the type of S5; other writes are ignored."""
        if offset != CONTROL or not value & SLEEP_ENABLE:
            return
        if value >> SLEEP_TYPE_SHIFT & SLEEP_TYPE_MASK == SLEEP_TYPE_S5:
            self._power_off()
