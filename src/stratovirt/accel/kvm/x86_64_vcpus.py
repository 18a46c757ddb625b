"""Interrupt controllers and vCPUs of KVM on x86_64, created in power-on state."""

from __future__ import annotations

from stratovirt._native.dispatch import Dispatcher
from stratovirt._native.x86_64_kvm import X8664Kvm, X8664Vcpu, X8664Vm, cpuid
from stratovirt.accel.base import AccelError
from stratovirt.cpu.slots import CpuSlots
from stratovirt.cpu.x86_64_boot import set_common_state
from stratovirt.cpu.x86_64_cpuid import guest_cpuid, with_brand
from stratovirt.cpu.x86_64_topology import Entry

IDENTITY_MAP, TSS = 0xFEF0_C000, 0xFEF0_D000
"""Guest physical pages that KVM on Intel hosts reserves; boards leave them free."""


def create_interrupt_controllers(vm: X8664Vm) -> None:
    """Create PIC, IOAPIC, LAPICs and PIT, before the first vCPU; raises AccelError."""
    try:
        vm.create_irqchip(IDENTITY_MAP, TSS)
        vm.create_pit()
    except OSError as error:
        raise AccelError(f"-accel kvm: {error.strerror}") from error


def new_cpuid(system: X8664Kvm, slots: CpuSlots) -> list[list[Entry]]:
    """The CPUID entries of each vCPU that the machine has."""
    supported = with_brand(system.supported_cpuid(), cpuid)
    tsc_deadline = system.has_tsc_deadline_timer()
    return [
        guest_cpuid(supported, slots.topology, slot.hardware_id, tsc_deadline=tsc_deadline)
        for slot in slots.present
    ]


def new_vcpus(
    system: X8664Kvm, vm: X8664Vm, dispatcher: Dispatcher, slots: CpuSlots
) -> list[X8664Vcpu]:
    """Create the vCPUs with their CPUID and reset state; raises OSError."""
    vcpus = []
    for slot, entries in zip(slots.present, new_cpuid(system, slots), strict=True):
        vcpu = X8664Vcpu(vm, slot.index, dispatcher)
        vcpu.set_cpuid(entries)
        set_common_state(vcpu)
        vcpus.append(vcpu)
    return vcpus


def describe_registers(vcpu: X8664Vcpu) -> str:
    """General and control registers, CS and SS of a vCPU, in one line."""
    regs, sregs = vcpu.get_regs(), vcpu.get_sregs()
    words = [f"{name}={value:x}" for name, value in regs.items()]
    words += [f"{name}={sregs[name]:x}" for name in ("cr0", "cr2", "cr3", "cr4", "efer")]
    words += [f"{name}={sregs[name]['selector']:x}" for name in ("cs", "ss")]
    return " ".join(words)
