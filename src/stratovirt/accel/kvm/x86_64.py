"""What KVM on x86_64 adds to the accelerator: interrupt controllers and vCPU state."""

from __future__ import annotations

from stratovirt.accel.kvm.machine import KvmAccelerator
from stratovirt.config.machine import Smp
from stratovirt.cpu.x86_64_boot import EntryPoint, set_boot_registers, set_common_state
from stratovirt.cpu.x86_64_cpuid import guest_cpuid


def create_interrupt_controllers(accelerator: KvmAccelerator, identity_map: int, tss: int) -> None:
    """PIC, IOAPIC, LAPICs and PIT in the kernel; before the first vCPU."""
    accelerator.vm.create_irqchip(identity_map, tss)
    accelerator.vm.create_pit()


def create_vcpus(accelerator: KvmAccelerator, smp: Smp) -> None:
    """Create the vCPUs with their CPUID and reset state."""
    supported = accelerator.system.supported_cpuid()
    tsc_deadline = accelerator.system.has_tsc_deadline_timer()
    for index in range(smp.cpus):
        vcpu = accelerator.add_vcpu(index).vcpu
        vcpu.set_cpuid(guest_cpuid(supported, smp.topology, index, tsc_deadline=tsc_deadline))
        set_common_state(vcpu)


def set_entry(accelerator: KvmAccelerator, entry: EntryPoint) -> None:
    """Let the first vCPU start at the kernel; the others wait for its startup IPI."""
    set_boot_registers(accelerator.vcpus[0].vcpu, entry)
