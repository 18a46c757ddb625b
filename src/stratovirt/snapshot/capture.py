"""Captures the whole state of a paused machine."""

from __future__ import annotations

from stratovirt.config.vm_config import VmConfig
from stratovirt.snapshot.errors import SnapshotError
from stratovirt.snapshot.machine import PATH, MachineState, guest_visible
from stratovirt.snapshot.tree import Tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.accel.base import Accelerator
    from stratovirt.machine.board import Board


def capture(config: VmConfig, board: Board, accelerator: Accelerator) -> Tree:
    """The state of a snapshot, without memory; raises SnapshotError naming an unsavable part."""
    if board.obstacle is not None:
        raise SnapshotError(board.obstacle)
    tree = Tree.of([*accelerator.states(), *board.states()])
    state = MachineState(options=guest_visible(config), memory_bytes=config.memory.size)
    tree.put(PATH, state)
    return tree
