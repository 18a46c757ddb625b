"""State of x86_64 vCPUs and interrupt controllers in a snapshot: the kernel's structs by name."""

from __future__ import annotations

from contextlib import contextmanager

from stratovirt._native import x86_64_kvm_state as kvm_state
from stratovirt._native.x86_64_kvm import X8664Kvm, X8664Vcpu, X8664Vm
from stratovirt.config.options import opt
from stratovirt.cpu.x86_64_cpuid import lacking_features
from stratovirt.snapshot.errors import SnapshotError
from stratovirt.snapshot.state import U32, Blobs, Bytes, Each, Numbers, Optional, State, Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from stratovirt.cpu.x86_64_topology import Entry

MSR_TSC = 0x10
MSR_TSC_DEADLINE = 0x6E0
LARGEST_STRUCT = 4096
NESTED_MOST = 1 << 16
MOST_VCPUS = 254


class CpuidEntry(State):
    """One entry as KVM_SET_CPUID2 takes it."""

    function: int = opt(U32)
    index: int = opt(U32)
    flags: int = opt(U32)
    eax: int = opt(U32)
    ebx: int = opt(U32)
    ecx: int = opt(U32)
    edx: int = opt(U32)


class VcpuState(State):
    """One vCPU: the kernel's structs by name, its MSRs and its CPUID entries.

    The time stamp counter is part of the machine's clock.
    """

    parts: dict[str, bytes] = opt(Blobs(LARGEST_STRUCT))
    msrs: dict[int, int] = opt(Numbers())
    cpuid: list[CpuidEntry] = opt(Each(Struct(CpuidEntry)))
    nested: bytes | None = opt(Optional(Bytes(NESTED_MOST)))


class ChipsState(State):
    """PIC, I/O APIC and PIT: the kernel's structs by name."""

    chips: dict[str, bytes] = opt(Blobs(LARGEST_STRUCT))


@contextmanager
def asking_kvm(what: str) -> Iterator[None]:
    """Turn what KVM refuses to `what` ("give" or "take") into a SnapshotError."""
    try:
        yield
    except KeyError as error:
        raise SnapshotError(f"the state lacks {error}") from error
    except (OSError, ValueError) as error:
        text = error.strerror if isinstance(error, OSError) else str(error)
        raise SnapshotError(f"KVM does not {what} the machine's state: {text}") from error


def save_chips(vm: X8664Vm) -> ChipsState:
    """The registers of all chips; raises SnapshotError."""
    with asking_kvm("give"):
        return ChipsState(chips=kvm_state.save_chips(vm.fd))


def restore_chips(vm: X8664Vm, state: ChipsState) -> None:
    """Load saved registers; raises SnapshotError."""
    with asking_kvm("take"):
        kvm_state.restore_chips(vm.fd, state.chips)


def save_vcpu(system: X8664Kvm, vcpu: X8664Vcpu, cpuid: list[Entry]) -> VcpuState:
    """Read the state of a paused vCPU that shows `cpuid`; raises SnapshotError."""
    nested_size = kvm_state.nested_state_size(system.fd)
    with asking_kvm("give"):
        indices = [index for index in kvm_state.msr_indices(system.fd) if index != MSR_TSC]
        return VcpuState(
            msrs=kvm_state.save_msrs(vcpu.fd, indices),
            parts=kvm_state.save_vcpu(vcpu.fd),
            cpuid=[CpuidEntry(**entry) for entry in cpuid],
            nested=kvm_state.save_nested(vcpu.fd, nested_size) if nested_size else None,
        )


def restore_vcpu(system: X8664Kvm, vcpu: X8664Vcpu, state: VcpuState) -> list[Entry]:
    """Load the state into a newly created vCPU, after its clock; returns the CPUID it shows.

    Raises SnapshotError.
    """
    cpuid = [{key: getattr(entry, key) for key in CpuidEntry.fields} for entry in state.cpuid]
    lacking = lacking_features(cpuid, system.supported_cpuid())
    if lacking is not None:
        raise SnapshotError(f"this host's CPU lacks {lacking}, which the guest was shown")
    with asking_kvm("take"):
        unknown = set(state.msrs) - set(kvm_state.msr_indices(system.fd))
        if unknown:
            raise SnapshotError(f"MSR 0x{min(unknown):x} is not known to this KVM")
        vcpu.set_cpuid(cpuid)
        _restore_registers(vcpu.fd, state)
    return cpuid


def _restore_registers(fd: int, state: VcpuState) -> None:
    msrs = dict(state.msrs)
    # The deadline takes effect only after the local APIC is in TSC-deadline mode.
    deadline = msrs.pop(MSR_TSC_DEADLINE, 0)
    kvm_state.restore_vcpu(fd, state.parts)
    restore_msrs(fd, msrs)
    if state.nested is not None:
        kvm_state.restore_nested(fd, state.nested)
    if deadline:
        restore_msrs(fd, {MSR_TSC_DEADLINE: deadline})


def restore_msrs(fd: int, values: dict[int, int]) -> None:
    """Set MSRs; raises SnapshotError for one that KVM refuses and that differs here."""
    refused = kvm_state.restore_msrs(fd, values)
    if not refused:
        return
    # Read-only MSRs are accepted when this host has the saved value.
    here = kvm_state.save_msrs(fd, refused)
    for index in refused:
        if here.get(index) != values[index]:
            raise SnapshotError(f"KVM does not take 0x{values[index]:x} for MSR 0x{index:x}")
