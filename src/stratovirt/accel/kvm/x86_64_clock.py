"""The clocks that KVM keeps for an x86_64 guest: kvmclock and the time stamp counters."""

from __future__ import annotations

import time

from stratovirt._native import x86_64_kvm_state as kvm_state
from stratovirt._native.x86_64_kvm import X8664Vcpu, X8664Vm
from stratovirt.accel.kvm.x86_64_state import MOST_VCPUS, MSR_TSC, asking_kvm, restore_msrs
from stratovirt.config.kinds import Integer
from stratovirt.config.options import opt
from stratovirt.snapshot.errors import SnapshotError
from stratovirt.snapshot.state import U32, U64, Each, State

TSC_TOLERANCE_PPM = 250
"""Largest TSC rate difference that the guest's NTP corrects; above it the rate is scaled."""
CLOCK_MOST_NS = 1 << 62
"""Limit of a kvmclock value, 146 years."""


class ClockState(State):
    """All clocks at one moment, so that they go on together; times in ns, `realtime` since 1970."""

    clock: int = opt(Integer(0, CLOCK_MOST_NS), help="kvmclock when it was saved")
    realtime: int = opt(U64, help="the host's time of day then")
    tsc_khz: int = opt(U32)
    tsc: list[int] = opt(Each(U64, MOST_VCPUS), help="each vCPU's time stamp counter")


class GuestClock:
    """kvmclock of the machine and the time stamp counters of its vCPUs."""

    state_type = ClockState

    def __init__(self, vm: X8664Vm, vcpus: list[X8664Vcpu]) -> None:
        self._vm, self._vcpus = vm, vcpus

    def save(self) -> ClockState:
        """The clocks now; they run on while the machine is paused.  Raises SnapshotError."""
        with asking_kvm("give"):
            # The counters and kvmclock directly one after the other.
            tsc = [kvm_state.save_msrs(vcpu.fd, [MSR_TSC])[MSR_TSC] for vcpu in self._vcpus]
            return ClockState(
                clock=kvm_state.clock_ns(self._vm.fd),
                realtime=time.time_ns(),
                tsc_khz=kvm_state.tsc_khz(self._vcpus[0].fd),
                tsc=tsc,
            )

    def restore(self, state: ClockState) -> None:
        """Let the clocks go on as if the machine had run since; raises SnapshotError.

        The vCPUs are new and restored after this: a local APIC's timer starts from its counter.
        """
        if len(state.tsc) != len(self._vcpus):
            raise SnapshotError(f"the state has {len(state.tsc)} vCPUs")
        elapsed_ns = max(0, time.time_ns() - state.realtime)
        if state.clock + elapsed_ns > CLOCK_MOST_NS // 2:
            # The rest is room for the time until the restored machine is saved again.
            raise SnapshotError("clock: the snapshot's time of day is damaged")
        elapsed_ticks = elapsed_ns * state.tsc_khz // 1_000_000
        with asking_kvm("take"):
            for vcpu in self._vcpus:
                _match_tsc_rate(vcpu.fd, state.tsc_khz)
            kvm_state.set_clock_ns(self._vm.fd, state.clock + elapsed_ns)
            for vcpu, ticks in zip(self._vcpus, state.tsc, strict=True):
                restore_msrs(vcpu.fd, {MSR_TSC: ticks + elapsed_ticks & (1 << 64) - 1})


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
