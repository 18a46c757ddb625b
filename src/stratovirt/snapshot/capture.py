"""The whole state of a machine at rest."""

from __future__ import annotations

from stratovirt.config.vm_config import VmConfig
from stratovirt.snapshot.machine import MachineState, guest_visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.accel.kvm.machine import KvmAccelerator
    from stratovirt.machine.x86_64_board import Board


def capture(config: VmConfig, board: Board, kvm: KvmAccelerator | None) -> MachineState:
    """What a snapshot holds besides memory; raises SnapshotError naming what cannot be saved."""
    saved = board.save()
    vcpus = None
    if kvm is not None:
        from stratovirt.accel.kvm import x86_64_state

        vcpus = x86_64_state.save(kvm, config.smp).to_json()
    return MachineState(
        options=guest_visible(config),
        memory_bytes=config.memory.size,
        board=saved.to_json(),
        kvm=vcpus,
    )
