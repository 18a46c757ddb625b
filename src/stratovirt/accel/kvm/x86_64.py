"""What KVM on x86_64 adds to the accelerator: interrupt controllers, vCPU state, reset."""

from __future__ import annotations

from stratovirt._native.dispatch import Dispatcher
from stratovirt._native.host_cpuid import cpuid
from stratovirt._native.kvm import Kvm, KvmVcpu, KvmVm
from stratovirt.accel.base import AccelError
from stratovirt.accel.kvm.machine import KvmAccelerator
from stratovirt.config.machine import Smp
from stratovirt.cpu.x86_64_boot import EntryPoint, set_boot_registers, set_common_state
from stratovirt.cpu.x86_64_cpuid import guest_cpuid, with_brand
from stratovirt.cpu.x86_64_topology import Entry

IDENTITY_MAP, TSS = 0xFEF0_C000, 0xFEF0_D000
"""Guest physical pages that KVM on Intel hosts takes for itself, which boards leave free."""


def create_interrupt_controllers(vm: KvmVm) -> None:
    """PIC, IOAPIC, LAPICs and PIT in the kernel; before the first vCPU. Raises AccelError."""
    try:
        vm.create_irqchip(IDENTITY_MAP, TSS)
        vm.create_pit()
    except OSError as error:
        raise AccelError(f"-accel kvm: {error.strerror}") from error


def create_vcpus(accelerator: KvmAccelerator, smp: Smp) -> None:
    """Create the vCPUs with their CPUID and reset state; raises AccelError."""
    try:
        vcpus = _new_vcpus(accelerator.system, accelerator.vm, accelerator.dispatcher, smp)
    except OSError as error:
        raise AccelError(
            f"-smp {smp.cpus}: KVM cannot create the vCPUs: {error.strerror}"
        ) from error
    for vcpu in vcpus:
        accelerator.add_vcpu(vcpu)


def new_cpuid(system: Kvm, smp: Smp) -> list[list[Entry]]:
    """The CPUID entries of each vCPU."""
    supported = with_brand(system.supported_cpuid(), cpuid)
    tsc_deadline = system.has_tsc_deadline_timer()
    return [
        guest_cpuid(supported, smp.topology, index, tsc_deadline=tsc_deadline)
        for index in range(smp.cpus)
    ]


def _new_vcpus(system: Kvm, vm: KvmVm, dispatcher: Dispatcher, smp: Smp) -> list[KvmVcpu]:
    vcpus = []
    for index, entries in enumerate(new_cpuid(system, smp)):
        vcpu = vm.create_vcpu(index, dispatcher)
        vcpu.set_cpuid(entries)
        set_common_state(vcpu)
        vcpus.append(vcpu)
    return vcpus


def set_entry(accelerator: KvmAccelerator, entry: EntryPoint) -> None:
    """Let the first vCPU start at the kernel; the others wait for its startup IPI.

    Raises AccelError.
    """
    try:
        set_boot_registers(accelerator.vcpus[0].vcpu, entry)
    except OSError as error:
        raise AccelError(f"-accel kvm: KVM refuses the entry: {error.strerror}") from error


def reset(accelerator: KvmAccelerator, smp: Smp, entry: EntryPoint | None) -> None:
    """Put the paused machine back into its state of power-on; raises AccelError.

    That state is read from a twin made for the purpose, so that nothing has to be saved when a
    machine starts.
    """
    from stratovirt._native import kvm_state

    try:
        system = accelerator.system
        twin = system.create_vm()
        create_interrupt_controllers(twin)
        fresh = _new_vcpus(system, twin, accelerator.dispatcher, smp)
        kvm_state.restore_chips(accelerator.vm.fd, kvm_state.save_chips(twin.fd))
        indices = kvm_state.msr_indices(system.fd)
        for thread, source in zip(accelerator.vcpus, fresh, strict=True):
            kvm_state.restore_vcpu(thread.vcpu.fd, kvm_state.save_vcpu(source.fd))
            # What the kernel refuses to set it also did not let the guest change.
            kvm_state.restore_msrs(thread.vcpu.fd, kvm_state.save_msrs(source.fd, indices))
        if entry is not None:
            set_entry(accelerator, entry)
    except OSError as error:
        raise AccelError(f"system_reset: KVM cannot take the state: {error.strerror}") from error
