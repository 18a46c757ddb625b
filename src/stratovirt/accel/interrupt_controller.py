"""The interrupt controller contract."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from stratovirt.snapshot.state import Stateful

    class InterruptController(Stateful, Protocol):
        """The interrupt controllers of a machine as one: those of the board, not of a vCPU.

        On x86 these are PIC, I/O APIC and the PIT beside them (a local APIC is part of its vCPU),
        on Arm the GIC with its redistributors and ITS.
        """

        def create(self) -> None:
            """Create them, before the vCPUs and before any line is used; raises AccelError."""

        def reset(self) -> None:
            """Reset to power-on state; vCPUs are paused.  Raises OSError."""
