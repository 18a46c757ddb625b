"""Interrupt controllers and vCPUs of KVM on x86_64, created in power-on state."""

from __future__ import annotations

from stratovirt._native.dispatch import Dispatcher
from stratovirt._native.host_cpuid import cpuid
from stratovirt._native.kvm import Kvm, KvmVcpu, KvmVm
from stratovirt.accel.base import AccelError
from stratovirt.config.machine import Smp
from stratovirt.cpu.x86_64_boot import set_common_state
from stratovirt.cpu.x86_64_cpuid import guest_cpuid, with_brand
from stratovirt.cpu.x86_64_topology import Entry

IDENTITY_MAP, TSS = 0xFEF0_C000, 0xFEF0_D000
"""Guest physical pages that KVM on Intel hosts reserves; boards leave them free."""


def create_interrupt_controllers(vm: KvmVm) -> None:
    """Create PIC, IOAPIC, LAPICs and PIT, before the first vCPU; raises AccelError."""
    try:
        vm.create_irqchip(IDENTITY_MAP, TSS)
        vm.create_pit()
    except OSError as error:
        raise AccelError(f"-accel kvm: {error.strerror}") from error


def new_cpuid(system: Kvm, smp: Smp) -> list[list[Entry]]:
    """The CPUID entries of each vCPU."""
    supported = with_brand(system.supported_cpuid(), cpuid)
    tsc_deadline = system.has_tsc_deadline_timer()
    return [
        guest_cpuid(supported, smp.topology, index, tsc_deadline=tsc_deadline)
        for index in range(smp.cpus)
    ]


def new_vcpus(system: Kvm, vm: KvmVm, dispatcher: Dispatcher, smp: Smp) -> list[KvmVcpu]:
    """Create the vCPUs with their CPUID and reset state; raises OSError."""
    vcpus = []
    for index, entries in enumerate(new_cpuid(system, smp)):
        vcpu = vm.create_vcpu(index, dispatcher)
        vcpu.set_cpuid(entries)
        set_common_state(vcpu)
        vcpus.append(vcpu)
    return vcpus
