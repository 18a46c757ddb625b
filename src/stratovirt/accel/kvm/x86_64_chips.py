"""The interrupt controllers of an x86_64 machine in KVM: PIC, I/O APIC, and the PIT beside them."""

from __future__ import annotations

from stratovirt._native.x86_64_kvm import X8664Vm
from stratovirt.accel.base import AccelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.accel.kvm.x86_64_power_on import PowerOn
    from stratovirt.accel.kvm.x86_64_state import ChipsState

IDENTITY_MAP, TSS = 0xFEF0_C000, 0xFEF0_D000
"""Guest physical pages that KVM on Intel hosts reserves; boards leave them free."""


def create_chips(vm: X8664Vm) -> None:
    """Create PIC, I/O APIC and PIT, and have vCPUs come with a local APIC; raises OSError."""
    vm.create_irqchip(IDENTITY_MAP, TSS)
    vm.create_pit()


class Chips:
    """The chips of one machine; a local APIC is part of its vCPU."""

    def __init__(self, vm: X8664Vm, power_on: PowerOn) -> None:
        self.vm, self._power_on = vm, power_on

    @property
    def state_type(self) -> type[ChipsState]:
        """Type of the state that `save` returns."""
        from stratovirt.accel.kvm.x86_64_state import ChipsState

        return ChipsState

    def create(self) -> None:
        """Create them, before the first vCPU; raises AccelError."""
        try:
            create_chips(self.vm)
        except OSError as error:
            raise AccelError(f"-accel kvm: {error.strerror}") from error

    def reset(self) -> None:
        """Reset to power-on state; raises OSError."""
        from stratovirt._native.x86_64_kvm_state import restore_chips

        with self._power_on as twin:
            restore_chips(self.vm.fd, twin.chips())

    def save(self) -> ChipsState:
        """The registers of all chips; raises SnapshotError."""
        from stratovirt.accel.kvm.x86_64_state import save_chips

        return save_chips(self.vm)

    def restore(self, state: ChipsState) -> None:
        """Load saved registers; raises SnapshotError."""
        from stratovirt.accel.kvm.x86_64_state import restore_chips

        restore_chips(self.vm, state)
