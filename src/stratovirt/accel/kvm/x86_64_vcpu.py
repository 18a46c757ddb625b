"""x86_64 vCPUs of KVM: created in power-on state, reset, entered, described, saved."""

from __future__ import annotations

from stratovirt._native.dispatch import Dispatcher
from stratovirt._native.x86_64_kvm import X8664Kvm, X8664Vcpu, X8664Vm, cpuid
from stratovirt.accel.kvm.vcpu import GuestCpu
from stratovirt.cpu.slots import CpuSlot, CpuSlots
from stratovirt.cpu.x86_64_boot import EntryPoint, set_boot_registers, set_common_state
from stratovirt.cpu.x86_64_cpuid import guest_cpuid, with_brand
from stratovirt.cpu.x86_64_topology import Entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from stratovirt.accel.kvm.x86_64_power_on import PowerOn
    from stratovirt.accel.kvm.x86_64_state import VcpuState


def new_cpuid(system: X8664Kvm, slots: CpuSlots, places: Iterable[CpuSlot]) -> list[list[Entry]]:
    """The CPUID entries of the vCPUs in `places`, on this host."""
    supported = with_brand(system.supported_cpuid(), cpuid)
    tsc_deadline = system.has_tsc_deadline_timer()
    return [
        guest_cpuid(supported, slots.topology, slot.hardware_id, tsc_deadline=tsc_deadline)
        for slot in places
    ]


def new_vcpus(
    system: X8664Kvm, vm: X8664Vm, dispatcher: Dispatcher, slots: CpuSlots
) -> list[X8664Vcpu]:
    """Create all vCPUs with their CPUID and power-on state, or none; raises OSError."""
    vcpus: list[X8664Vcpu] = []
    entries_of = new_cpuid(system, slots, slots.present)
    try:
        for slot, entries in zip(slots.present, entries_of, strict=True):
            vcpus.append(X8664Vcpu(vm, slot.index, dispatcher))
            vcpus[-1].set_cpuid(entries)
            set_common_state(vcpus[-1])
    except OSError:
        for vcpu in vcpus:
            vcpu.close()
        raise
    return vcpus


class X8664GuestCpu(GuestCpu):
    """One x86_64 vCPU.

    `host_cpuid` gives its CPUID entries on this host, which it shows unless it is restored.
    """

    native: X8664Vcpu

    def __init__(
        self,
        native_vcpu: X8664Vcpu,
        system: X8664Kvm,
        power_on: PowerOn,
        host_cpuid: Callable[[], list[Entry]],
    ) -> None:
        super().__init__(native_vcpu)
        self._system, self._power_on = system, power_on
        self._host_cpuid = host_cpuid
        self._restored_cpuid: list[Entry] | None = None

    @property
    def state_type(self) -> type[VcpuState]:
        """Type of the state that `save` returns."""
        from stratovirt.accel.kvm.x86_64_state import VcpuState

        return VcpuState

    def save(self) -> VcpuState:
        """The registers but for the time stamp counter, and the CPUID; raises SnapshotError."""
        from stratovirt.accel.kvm.x86_64_state import save_vcpu

        shown = self._host_cpuid() if self._restored_cpuid is None else self._restored_cpuid
        return save_vcpu(self._system, self.native, shown)

    def restore(self, state: VcpuState) -> None:
        """Load a saved state into a newly created vCPU; raises SnapshotError."""
        from stratovirt.accel.kvm.x86_64_state import restore_vcpu

        self._restored_cpuid = restore_vcpu(self._system, self.native, state)
        self.note_paused()

    def reset(self) -> None:
        """Reset to power-on state; raises OSError."""
        from stratovirt._native import x86_64_kvm_state as kvm_state

        with self._power_on as twin:
            fresh, fd = twin.vcpu(self.index).fd, self.native.fd
            kvm_state.restore_vcpu(fd, kvm_state.save_vcpu(fresh))
            # An MSR that KVM refuses to set here could not be changed by the guest either.
            indices = kvm_state.msr_indices(self._system.fd)
            kvm_state.restore_msrs(fd, kvm_state.save_msrs(fresh, indices))

    def set_entry(self, entry: EntryPoint) -> None:
        """Set the registers to the kernel's 64-bit entry; raises OSError."""
        set_boot_registers(self.native, entry)

    def describe_registers(self) -> str:
        """General and control registers, CS and SS, in one line."""
        regs, sregs = self.native.get_regs(), self.native.get_sregs()
        words = [f"{name}={value:x}" for name, value in regs.items()]
        words += [f"{name}={sregs[name]:x}" for name in ("cr0", "cr2", "cr3", "cr4", "efer")]
        words += [f"{name}={sregs[name]['selector']:x}" for name in ("cs", "ss")]
        return " ".join(words)
