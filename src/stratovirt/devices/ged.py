"""Generic Event Device (ACPI 6.5, section 5.6.9): events of a hardware-reduced machine.

The guest's \\_EVT method reads the pending events; the read clears them.
"""

from __future__ import annotations

from stratovirt.config.options import opt
from stratovirt.snapshot.state import U32, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

REGISTERS = 4
POWER_BUTTON = 1 << 0
NEW_GENERATION = 1 << 1
"""The machine is a clone: see acpi.vmgenid."""


class GedState(State):
    """Events the guest has not read."""

    pending: int = opt(U32)


class GenericEventDevice:
    """One 32-bit register of pending events and an edge-triggered interrupt."""

    state_type = GedState

    def __init__(self, set_irq_level: Callable[[bool], None]) -> None:
        self._set_irq_level = set_irq_level
        self._pending = 0

    def raise_event(self, event: int) -> None:
        """Make `event` pending and interrupt the guest."""
        self._pending |= event
        self._set_irq_level(True)
        self._set_irq_level(False)

    def reset(self) -> None:
        """Nothing is pending after power-on."""
        self._pending = 0

    def save(self) -> GedState:
        """The pending events."""
        return GedState(pending=self._pending)

    def restore(self, state: GedState) -> None:
        """Raise the saved events again."""
        if state.pending:
            self.raise_event(state.pending)

    def read(self, offset: int, size: int) -> int:
        """The pending events, which the read clears; only as a whole register."""
        if offset or size != REGISTERS:
            return 0
        pending, self._pending = self._pending, 0
        return pending

    def write(self, _offset: int, _size: int, _value: int) -> None:
        """Ignored: the register is read-only."""
