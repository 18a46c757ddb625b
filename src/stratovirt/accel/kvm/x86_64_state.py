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
    Entry,
    Numbers,
    Optional,
    State,
    Struct,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from stratovirt.cpu.x86_64_topology import Entry as TopologyEntry

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


class ChipsState(State):
    """The interrupt controllers and timer in the kernel: its structs by name."""

    chips: dict[str, bytes] = opt(Blobs(LARGEST_STRUCT))


class ClockState(State):
    """The machine's clocks; times in ns, `realtime` since 1970."""

    clock: int = opt(Integer(0, CLOCK_MOST_NS), help="kvmclock when it was saved")
    realtime: int = opt(U64, help="the host's time of day then")
    tsc_khz: int = opt(U32)


def entries(
    system: X8664Kvm, vm: X8664Vm, vcpus: list[X8664Vcpu], slots: CpuSlots
) -> Iterator[Entry]:
    """Clock, interrupt controllers and vCPUs, in the order of their restore."""
    clock = Clock(vm, vcpus, kvm_state.msr_indices(system.fd))
    yield Entry("clock", clock)
    yield Entry("interrupt-controllers", Chips(vm))
    cpuid = new_cpuid(system, slots)
    for vcpu, shown in zip(vcpus, cpuid, strict=True):
        yield Entry(f"cpu/{vcpu.index}", Vcpu(system, vcpu, clock, shown), "-smp")


class Clock:
    """kvmclock and time stamp counters, which are saved together and go on together."""

    state_type = ClockState

    def __init__(self, vm: X8664Vm, vcpus: list[X8664Vcpu], msr_indices: list[int]) -> None:
        self._vm, self._vcpus = vm, vcpus
        self.msr_indices = msr_indices
        self.msrs: dict[int, dict[int, int]] = {}
        """Saved MSRs by index of the vCPU, the time stamp counter among them."""
        self.elapsed_ns = self.elapsed_ticks = 0
        """Time since the restored state was saved."""

    def save(self) -> ClockState:
        """The clocks; raises SnapshotError."""
        try:
            # MSRs (with the TSC) and kvmclock together: both run on while the rest is saved.
            self.msrs = {
                vcpu.index: kvm_state.save_msrs(vcpu.fd, self.msr_indices) for vcpu in self._vcpus
            }
            clock, realtime = kvm_state.clock_ns(self._vm.fd), time.time_ns()
            tsc_khz = kvm_state.tsc_khz(self._vcpus[0].fd)
        except OSError as error:
            raise _not_given(error) from error
        return ClockState(clock=clock, realtime=realtime, tsc_khz=tsc_khz)

    def restore(self, state: ClockState) -> None:
        """Set kvmclock as if the machine had run since it was saved; raises SnapshotError."""
        self.elapsed_ns = max(0, time.time_ns() - state.realtime)
        self.elapsed_ticks = self.elapsed_ns * state.tsc_khz // 1_000_000
        try:
            for vcpu in self._vcpus:
                _match_tsc_rate(vcpu.fd, state.tsc_khz)
            kvm_state.set_clock_ns(self._vm.fd, state.clock + self.elapsed_ns)
        except OSError as error:
            raise _not_taken(error) from error


class Chips:
    """The interrupt controllers of the machine."""

    state_type = ChipsState

    def __init__(self, vm: X8664Vm) -> None:
        self._vm = vm

    def save(self) -> ChipsState:
        """Their registers; raises SnapshotError."""
        try:
            return ChipsState(chips=kvm_state.save_chips(self._vm.fd))
        except OSError as error:
            raise _not_given(error) from error

    def restore(self, state: ChipsState) -> None:
        """Set their registers; raises SnapshotError."""
        try:
            kvm_state.restore_chips(self._vm.fd, state.chips)
        except (KeyError, OSError, ValueError) as error:
            raise _not_taken(error) from error


class Vcpu:
    """One vCPU; `cpuid` has the entries that it was made with."""

    state_type = VcpuState

    def __init__(
        self, system: X8664Kvm, vcpu: X8664Vcpu, clock: Clock, cpuid: list[TopologyEntry]
    ) -> None:
        self._system, self._vcpu, self._clock, self._cpuid = system, vcpu, clock, cpuid

    def save(self) -> VcpuState:
        """Its registers; the clock's were saved before. Raises SnapshotError."""
        fd = self._vcpu.fd
        try:
            nested_size = kvm_state.nested_state_size(self._system.fd)
            return VcpuState(
                parts=kvm_state.save_vcpu(fd),
                msrs=self._clock.msrs[self._vcpu.index],
                cpuid=[CpuidEntry(**entry) for entry in self._cpuid],
                nested=kvm_state.save_nested(fd, nested_size) if nested_size else None,
            )
        except OSError as error:
            raise _not_given(error) from error

    def restore(self, state: VcpuState) -> None:
        """Set its registers; the clock is restored before. Raises SnapshotError."""
        try:
            self._restore(state)
        except (KeyError, OSError, ValueError) as error:
            raise _not_taken(error) from error

    def _restore(self, state: VcpuState) -> None:
        vcpu, msrs = self._vcpu, dict(state.msrs)
        unknown = set(msrs) - set(self._clock.msr_indices)
        if unknown:
            raise SnapshotError(f"MSR 0x{min(unknown):x} is not known to this KVM")
        cpuid = [{key: getattr(entry, key) for key in CpuidEntry.fields} for entry in state.cpuid]
        lacking = lacking_features(cpuid, self._system.supported_cpuid())
        if lacking is not None:
            raise SnapshotError(f"this host's CPU lacks {lacking}, which the guest was shown")
        vcpu.set_cpuid(cpuid)
        # The deadline takes effect only after the local APIC is in TSC-deadline mode.
        deadline = msrs.pop(MSR_TSC_DEADLINE, 0)
        # Time first: the local APIC's timer starts from what the time stamp counter shows.
        ticks = msrs.pop(MSR_TSC, 0) + self._clock.elapsed_ticks
        _restore_msrs(vcpu.fd, {MSR_TSC: ticks & (1 << 64) - 1})
        kvm_state.restore_vcpu(vcpu.fd, state.parts)
        _restore_msrs(vcpu.fd, msrs)
        if state.nested is not None:
            kvm_state.restore_nested(vcpu.fd, state.nested)
        if deadline:
            _restore_msrs(vcpu.fd, {MSR_TSC_DEADLINE: deadline})
        vcpu.note_paused()


def _not_given(error: OSError) -> SnapshotError:
    return SnapshotError(f"KVM does not give the machine's state: {error.strerror}")


def _not_taken(error: Exception) -> SnapshotError:
    if isinstance(error, KeyError):
        return SnapshotError(f"the state lacks {error}")
    text = error.strerror if isinstance(error, OSError) else str(error)
    return SnapshotError(f"KVM does not take the state: {text}")


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
