"""The vCPU contract, and the exits that a vCPU's run ends with."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from stratovirt.snapshot.state import Stateful

    class Vcpu(Stateful, Protocol):
        """One vCPU of any accelerator and architecture.

        It runs in a thread of its own; all but `run` and `kick` need it paused.  Its state is
        what a snapshot saves of it: registers, and what the guest was told of the CPU.
        """

        index: int
        """Number of the vCPU's slot, from 0."""
        thread_id: int
        """The host thread's id, 0 before its first run."""

        def reset(self) -> None:
            """Reset to power-on state; raises OSError."""

        def set_entry(self, entry: Any) -> None:
            """Set the registers for the boot protocol of the architecture; raises OSError.

            The entry has the type that the architecture's boards make.
            """

        def run(self) -> VcpuExit:
            """Run guest code until an exit that the accelerator does not answer by itself.

            Accesses to the board's regions are answered within, others end the run.
            """

        def kick(self) -> None:
            """End `run` with KICKED between two instructions; called from any thread."""

        def note_paused(self) -> None:
            """Tell the guest's clock that the vCPU was stopped for a while."""

        def describe_registers(self) -> str:
            """The main registers in one line, for the log."""


class VcpuExit:
    """Why a vCPU's run has ended: `kind` is one of the names below, `text` a line for the log."""

    __slots__ = ("kind", "text")

    KICKED = "kicked"
    """A pause or the end of the machine was requested."""
    RESET = "reset"
    """The guest asked the accelerator for a reset (on Arm through PSCI)."""
    POWER_OFF = "power-off"
    """The guest asked the accelerator for a power-off (on Arm through PSCI)."""
    SHUTDOWN = "shutdown"
    """The CPU cannot go on, as after a triple fault on x86; hardware resets it."""
    CRASH = "crash"
    """The guest reported that it has crashed."""
    HALTED = "halted"
    """The CPU waits for an interrupt, which no interrupt controller of the accelerator sends."""
    FAIL_ENTRY = "fail-entry"
    """The hardware refuses the CPU's state."""
    INTERNAL_ERROR = "internal-error"
    """The accelerator cannot carry out an instruction."""
    RUN_FAILED = "run-failed"
    """The accelerator refuses to run the CPU."""
    DEVICE_FAILED = "device-failed"
    """A device raised an exception that has no owner."""
    UNEXPECTED = "unexpected"
    """The accelerator gave a reason that this VMM does not know; `text` has its number."""
    DISCONNECTED = "disconnected"
    """The client that plays the CPU has gone."""

    def __init__(self, kind: str, text: str = "") -> None:
        self.kind, self.text = kind, text
