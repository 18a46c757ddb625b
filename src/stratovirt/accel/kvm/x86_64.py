"""The KVM accelerator on x86_64: what it makes its interrupt controllers and vCPUs of."""

from __future__ import annotations

from stratovirt._native.x86_64_kvm import IOAPIC_PINS, X8664Kvm, X8664Vcpu, X8664Vm
from stratovirt.accel.base import AccelError
from stratovirt.accel.kvm.machine import KvmAccelerator
from stratovirt.accel.kvm.x86_64_chips import Chips, create_chips
from stratovirt.accel.kvm.x86_64_power_on import PowerOn
from stratovirt.accel.kvm.x86_64_vcpu import X8664GuestCpu, new_cpuid, new_vcpus
from stratovirt.cpu.slots import CpuSlot, CpuSlots
from stratovirt.runtime.loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import RLock

    from stratovirt.accel.kvm.x86_64_clock import GuestClock

ADDRESS_SIZES = 0x8000_0008
"""The CPUID leaf whose EAX has the address widths (physical in bits 7:0)."""


class X8664Accelerator(KvmAccelerator):
    """One machine on /dev/kvm whose vCPUs are x86_64."""

    kvm_type, vm_type = X8664Kvm, X8664Vm
    first_msi_gsi = IOAPIC_PINS
    system: X8664Kvm
    vm: X8664Vm
    slots: CpuSlots
    """The places of the vCPUs, from `create_vcpus` on."""

    def __init__(self, loop: Loop, vm_lock: RLock) -> None:
        super().__init__(loop, vm_lock)
        self._power_on = PowerOn(self._new_machine, self._new_vcpus)
        self._chips = Chips(self.vm, self._power_on)
        self._vcpus: list[X8664GuestCpu] = []

    def _new_machine(self) -> X8664Vm:
        vm = X8664Vm(self.system)
        try:
            create_chips(vm)
        except OSError:
            vm.close()
            raise
        return vm

    def _new_vcpus(self, vm: X8664Vm) -> list[X8664Vcpu]:
        return new_vcpus(self.system, vm, self.dispatcher, self.slots)

    @property
    def physical_address_bits(self) -> int:
        """Width of a guest physical address, in bits."""
        sizes = (e["eax"] for e in self.system.supported_cpuid() if e["function"] == ADDRESS_SIZES)
        return next(sizes, 36) & 0xFF

    @property
    def interrupt_controller(self) -> Chips:
        """PIC, I/O APIC and PIT."""
        return self._chips

    @property
    def guest_clock(self) -> GuestClock:
        """kvmclock and the time stamp counters."""
        from stratovirt.accel.kvm.x86_64_clock import GuestClock

        return GuestClock(self.vm, [vcpu.native for vcpu in self._vcpus])

    @property
    def vcpus(self) -> list[X8664GuestCpu]:
        """The vCPUs in the order of their slots."""
        return self._vcpus

    def check_host(self) -> None:
        """Warn of a host that cannot run stock kernels and firmware."""
        from stratovirt.accel.kvm.x86_64_host import check_host

        check_host()

    def create_vcpus(self, slots: CpuSlots, name: str) -> None:
        """Create the vCPUs with their CPUID and power-on state; raises AccelError."""
        self.slots = slots
        try:
            natives = self._new_vcpus(self.vm)
        except OSError as error:
            raise AccelError(
                f"-smp {len(slots.present)}: KVM cannot create the vCPUs: {error.strerror}"
            ) from error
        for slot, native_vcpu in zip(slots.present, natives, strict=True):
            slot.vcpu = vcpu = self._guest_cpu(slot, native_vcpu)
            self._vcpus.append(vcpu)
            self.add_thread(vcpu, name.format(slot.index))

    def _guest_cpu(self, slot: CpuSlot, native_vcpu: X8664Vcpu) -> X8664GuestCpu:
        return X8664GuestCpu(
            native_vcpu,
            self.system,
            self._power_on,
            lambda: new_cpuid(self.system, self.slots, [slot])[0],
        )

    def reset_parts(self) -> None:
        """Reset interrupt controllers, then vCPUs, all from one twin; raises OSError."""
        with self._power_on:
            super().reset_parts()
