"""Captures the whole state of a paused machine."""

from __future__ import annotations

from stratovirt.config.vm_config import VmConfig
from stratovirt.snapshot.machine import MachineState, guest_visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.accel.base import Accelerator
    from stratovirt.machine.board import Board


def capture(config: VmConfig, board: Board, accelerator: Accelerator) -> MachineState:
    """The state of a snapshot, without memory; raises SnapshotError naming an unsavable device."""
    saved = board.save()
    return MachineState(
        options=guest_visible(config),
        memory_bytes=config.memory.size,
        board=saved.to_json(),
        kvm=accelerator.save(),
    )
