"""A vCPU of KVM on any architecture: its exits as values, and what an architecture adds."""

from __future__ import annotations

from abc import ABC, abstractmethod

from stratovirt._native import kvm_vcpu as native
from stratovirt._native.kvm_vcpu import KvmVcpu
from stratovirt.accel.vcpu import VcpuExit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from stratovirt.snapshot.state import State

KINDS = {
    native.KICKED: VcpuExit.KICKED,
    native.SHUTDOWN: VcpuExit.SHUTDOWN,
    native.HALTED: VcpuExit.HALTED,
    native.FAIL_ENTRY: VcpuExit.FAIL_ENTRY,
    native.INTERNAL_ERROR: VcpuExit.INTERNAL_ERROR,
    native.POWER_OFF: VcpuExit.POWER_OFF,
    native.RESET: VcpuExit.RESET,
    native.CRASH: VcpuExit.CRASH,
    native.SYSTEM_EVENT: VcpuExit.UNEXPECTED,
    native.UNHANDLED: VcpuExit.UNEXPECTED,
    native.RUN_FAILED: VcpuExit.RUN_FAILED,
}
"""The exits that native code cannot answer, by what its `run` returns."""

KICKED = VcpuExit(VcpuExit.KICKED)


class GuestCpu(ABC):
    """One vCPU, of which a subclass knows the registers: see accel.vcpu.Vcpu."""

    def __init__(self, native_vcpu: KvmVcpu) -> None:
        self.native = native_vcpu
        self.index = native_vcpu.index
        self.thread_id = 0

    @property
    @abstractmethod
    def state_type(self) -> type[State]:
        """Type of the state that `save` returns."""

    @abstractmethod
    def save(self) -> State:
        """The state while the vCPU is paused; raises SnapshotError."""

    @abstractmethod
    def restore(self, state: Any) -> None:
        """Load a saved state into a newly created vCPU; raises SnapshotError."""

    @abstractmethod
    def reset(self) -> None:
        """Reset to power-on state; raises OSError."""

    @abstractmethod
    def set_entry(self, entry: Any) -> None:
        """Set the registers for the boot protocol of the architecture; raises OSError."""

    @abstractmethod
    def describe_registers(self) -> str:
        """The main registers in one line, for the log."""

    def run(self) -> VcpuExit:
        """Run guest code until an exit that native code does not answer by itself."""
        try:
            outcome = self.native.run()
            if outcome == native.KICKED:
                return KICKED
            return VcpuExit(KINDS[outcome], f"vCPU {self.index}: {self._describe(outcome)}")
        except Exception as error:
            return VcpuExit(VcpuExit.DEVICE_FAILED, f"device error {_with_place(error)}")

    def _describe(self, outcome: int) -> str:
        if outcome == native.RUN_FAILED:
            return "KVM_RUN failed"
        return f"{self.native.describe_exit()}; {self.describe_registers()}"

    def kick(self) -> None:
        """End `run` with KICKED between two instructions; called from any thread."""
        self.native.kick()

    def note_paused(self) -> None:
        """Tell the guest's clock that the vCPU was stopped for a while."""
        self.native.note_paused()

    def close(self) -> None:
        """Give the vCPU back, whose thread has ended; later calls change nothing."""
        self.native.close()


def _with_place(error: Exception) -> str:
    """An exception and the function and line that raised it."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f"{place.tb_frame.f_code.co_qualname}:{place.tb_lineno}" if place else "?"
    return f"{type(error).__name__}: {error} in {where}"
