"""KVM state of a paused x86_64 machine in a snapshot: vCPUs, interrupt controllers, clocks."""

from __future__ import annotations

import time

from stratovirt._native import x86_64_kvm_state as kvm_state
from stratovirt._native.x86_64_kvm import X8664Kvm, X8664Vcpu, X8664Vm
from stratovirt.accel.kvm.x86_64_vcpus import new_cpuid
from stratovirt.config.kinds import Integer
from stratovirt.config.options import opt
from stratovirt.cpu.slots import CpuSlots
from stratovirt.cpu.x86_64_cpuid import lacking_features
from stratovirt.snapshot.errors import SnapshotError
from stratovirt.snapshot.state import (
    U32,
    U64,
    Blobs,
    Bytes,
    Each,
    Numbers,
    Optional,
    State,
    Struct,
)

MSR_TSC = 0x10
MSR_TSC_DEADLINE = 0x6E0
TSC_TOLERANCE_PPM = 250
"""Largest TSC rate difference that the guest's NTP corrects; above it the rate is scaled."""
LARGEST_STRUCT = 4096
NESTED_MOST = 1 << 16
CLOCK_MOST_NS = 1 << 62
"""Limit of a saved kvmclock value, 146 years; leaves room for the time since the save."""


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
    """One vCPU: the kernel's structs by name, its MSRs and its CPUID entries."""

    parts: dict[str, bytes] = opt(Blobs(LARGEST_STRUCT))
    msrs: dict[int, int] = opt(Numbers())
    cpuid: list[CpuidEntry] = opt(Each(Struct(CpuidEntry)))
    nested: bytes | None = opt(Optional(Bytes(NESTED_MOST)))


class KvmState(State):
    """The machine's whole state in KVM; times in ns, `realtime` since 1970."""

    vcpus: list[VcpuState] = opt(Each(Struct(VcpuState), 254))
    chips: dict[str, bytes] = opt(Blobs(LARGEST_STRUCT))
    clock: int = opt(Integer(0, CLOCK_MOST_NS), help="kvmclock when it was saved")
    realtime: int = opt(U64, help="the host's time of day then")
    tsc_khz: int = opt(U32)


def save(system: X8664Kvm, vm: X8664Vm, vcpus: list[X8664Vcpu], slots: CpuSlots) -> KvmState:
    """Read the paused machine's state from KVM; raises SnapshotError."""
    indices = kvm_state.msr_indices(system.fd)
    nested_size = kvm_state.nested_state_size(system.fd)
    fds = [vcpu.fd for vcpu in vcpus]
    cpuid = new_cpuid(system, slots)
    try:
        # MSRs (with the TSC) and kvmclock first and together: both run on during the rest.
        msrs = [kvm_state.save_msrs(fd, indices) for fd in fds]
        clock, realtime = kvm_state.clock_ns(vm.fd), time.time_ns()
        saved = [
            VcpuState(
                parts=kvm_state.save_vcpu(fd),
                msrs=values,
                cpuid=[CpuidEntry(**entry) for entry in entries],
                nested=kvm_state.save_nested(fd, nested_size) if nested_size else None,
            )
            for fd, values, entries in zip(fds, msrs, cpuid, strict=True)
        ]
        return KvmState(
            vcpus=saved, chips=kvm_state.save_chips(vm.fd), clock=clock, realtime=realtime,
            tsc_khz=kvm_state.tsc_khz(fds[0]),
        )  # fmt: skip
    except OSError as error:
        raise SnapshotError(f"KVM does not give the machine's state: {error.strerror}") from error


def restore(system: X8664Kvm, vm: X8664Vm, vcpus: list[X8664Vcpu], state: KvmState) -> None:
    """Load the state into a machine with newly created vCPUs; raises SnapshotError.

    The clocks go on as if the machine had run since it was saved.
    """
    if len(state.vcpus) != len(vcpus):
        raise SnapshotError(f"the state has {len(state.vcpus)} vCPUs")
    try:
        _restore(system, vm, vcpus, state)
    except KeyError as error:
        raise SnapshotError(f"the state lacks {error}") from error
    except (OSError, ValueError) as error:
        text = error.strerror if isinstance(error, OSError) else str(error)
        raise SnapshotError(f"KVM does not take the state: {text}") from error


def _restore(system: X8664Kvm, vm: X8664Vm, vcpus: list[X8664Vcpu], state: KvmState) -> None:
    known = set(kvm_state.msr_indices(system.fd))
    elapsed_ns = max(0, time.time_ns() - state.realtime)
    supported = system.supported_cpuid()
    for vcpu, saved in zip(vcpus, state.vcpus, strict=True):
        entries = [{key: getattr(entry, key) for key in CpuidEntry.fields} for entry in saved.cpuid]
        lacking = lacking_features(entries, supported)
        if lacking is not None:
            raise SnapshotError(f"this host's CPU lacks {lacking}, which the guest was shown")
        vcpu.set_cpuid(entries)
        _match_tsc_rate(vcpu.fd, state.tsc_khz)
    kvm_state.restore_chips(vm.fd, state.chips)
    kvm_state.set_clock_ns(vm.fd, state.clock + elapsed_ns)
    for vcpu, saved in zip(vcpus, state.vcpus, strict=True):
        fd = vcpu.fd
        msrs = dict(saved.msrs)
        if set(msrs) - known:
            raise SnapshotError(f"MSR 0x{min(set(msrs) - known):x} is not known to this KVM")
        # The deadline takes effect only after the local APIC is in TSC-deadline mode.
        deadline = msrs.pop(MSR_TSC_DEADLINE, 0)
        # Time first: the local APIC's timer starts from what the time stamp counter shows.
        ticks = msrs.pop(MSR_TSC, 0) + elapsed_ns * state.tsc_khz // 1_000_000
        _restore_msrs(fd, {MSR_TSC: ticks & (1 << 64) - 1})
        kvm_state.restore_vcpu(fd, saved.parts)
        _restore_msrs(fd, msrs)
        if saved.nested is not None:
            kvm_state.restore_nested(fd, saved.nested)
        if deadline:
            _restore_msrs(fd, {MSR_TSC_DEADLINE: deadline})
        vcpu.note_paused()


def _restore_msrs(fd: int, values: dict[int, int]) -> None:
    refused = kvm_state.restore_msrs(fd, values)
    if not refused:
        return
    # Read-only MSRs are accepted when this host has the saved value.
    here = kvm_state.save_msrs(fd, refused)
    for index in refused:
        if here.get(index) != values[index]:
            raise SnapshotError(f"KVM does not take 0x{values[index]:x} for MSR 0x{index:x}")


def _match_tsc_rate(fd: int, khz: int) -> None:
    here = kvm_state.tsc_khz(fd)
    if abs(here - khz) * 1_000_000 <= khz * TSC_TOLERANCE_PPM:
        return
    try:
        kvm_state.set_tsc_khz(fd, khz)
    except OSError:
        raise SnapshotError(
            f"this host's time stamp counter runs at {here} kHz and the snapshot's at {khz} kHz, "
            "and the CPU cannot scale it"
        ) from None
