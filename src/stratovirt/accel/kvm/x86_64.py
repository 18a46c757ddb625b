"""The KVM accelerator on x86_64: interrupt controllers, vCPUs and their state."""

from __future__ import annotations

from stratovirt._native.x86_64_kvm import X8664Kvm, X8664Vcpu, X8664Vm
from stratovirt.accel.base import AccelError
from stratovirt.accel.kvm.machine import KvmAccelerator, open_kvm
from stratovirt.accel.kvm.x86_64_vcpus import (
    create_interrupt_controllers,
    describe_registers,
    new_vcpus,
)
from stratovirt.cpu.slots import CpuSlots
from stratovirt.cpu.x86_64_boot import EntryPoint, set_boot_registers
from stratovirt.runtime.loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import RLock
    from collections.abc import Iterable

    from stratovirt.snapshot.state import Entry

IOAPIC_PINS = 24
ADDRESS_SIZES = 0x8000_0008
"""The CPUID leaf whose EAX has the address widths (physical in bits 7:0)."""


class X8664Accelerator(KvmAccelerator):
    """One machine on /dev/kvm whose vCPUs are x86_64."""

    first_msi_gsi = IOAPIC_PINS
    vm: X8664Vm
    slots: CpuSlots
    """The places of the vCPUs, from `create_vcpus` on."""

    def __init__(self, loop: Loop, vm_lock: RLock) -> None:
        self.system = open_kvm(X8664Kvm)
        self._kvm_vcpus: list[X8664Vcpu] = []
        super().__init__(loop, vm_lock, X8664Vm(self.system))

    @property
    def physical_address_bits(self) -> int:
        """Width of a guest physical address, in bits."""
        sizes = (e["eax"] for e in self.system.supported_cpuid() if e["function"] == ADDRESS_SIZES)
        return next(sizes, 36) & 0xFF

    def check_host(self) -> None:
        """Warn of a host that cannot run stock kernels and firmware."""
        from stratovirt.accel.kvm.x86_64_host import check_host

        check_host()

    def create_interrupt_controllers(self) -> None:
        """Create PIC, IOAPIC, LAPICs and PIT in the kernel; raises AccelError."""
        create_interrupt_controllers(self.vm)

    def create_vcpus(self, slots: CpuSlots, name: str) -> None:
        """Create the vCPUs with their CPUID and reset state; raises AccelError."""
        self.slots = slots
        try:
            self._kvm_vcpus = new_vcpus(self.system, self.vm, self.dispatcher, slots)
        except OSError as error:
            raise AccelError(
                f"-smp {len(slots.present)}: KVM cannot create the vCPUs: {error.strerror}"
            ) from error
        for slot, vcpu in zip(slots.present, self._kvm_vcpus, strict=True):
            slot.vcpu = self.add_vcpu(vcpu, name.format(slot.index))

    def describe_registers(self, index: int) -> str:
        """The main registers of a vCPU that has stopped, in one line."""
        return describe_registers(next(vcpu for vcpu in self._kvm_vcpus if vcpu.index == index))

    def set_entry(self, entry: EntryPoint) -> None:
        """Set the first vCPU's registers to the entry; the others wait for its startup IPI.

        Raises AccelError.
        """
        try:
            set_boot_registers(self._kvm_vcpus[0], entry)
        except OSError as error:
            raise AccelError(f"-accel kvm: KVM refuses the entry: {error.strerror}") from error

    def reset(self) -> None:
        """Reset vCPUs and interrupt controllers to power-on state.

        The state is read from a second, newly created VM, so that nothing has to be saved when a
        machine starts.  Raises AccelError.
        """
        from stratovirt._native import x86_64_kvm_state as kvm_state

        try:
            twin = X8664Vm(self.system)
            create_interrupt_controllers(twin)
            fresh = new_vcpus(self.system, twin, self.dispatcher, self.slots)
            kvm_state.restore_chips(self.vm.fd, kvm_state.save_chips(twin.fd))
            indices = kvm_state.msr_indices(self.system.fd)
            for vcpu, source in zip(self._kvm_vcpus, fresh, strict=True):
                kvm_state.restore_vcpu(vcpu.fd, kvm_state.save_vcpu(source.fd))
                # An MSR that KVM refuses to set here could not be changed by the guest either.
                kvm_state.restore_msrs(vcpu.fd, kvm_state.save_msrs(source.fd, indices))
        except OSError as error:
            raise AccelError(
                f"system_reset: KVM cannot take the state: {error.strerror}"
            ) from error

    def states(self) -> Iterable[Entry]:
        """Clock, interrupt controllers and vCPUs, in the order of their restore."""
        from stratovirt.accel.kvm import x86_64_state

        return x86_64_state.entries(self.system, self.vm, self._kvm_vcpus, self.slots)
