"""CPUID of a guest: KVM's supported entries with the topology of -smp (SDM 2A, APM 3)."""

from __future__ import annotations

from stratovirt.cpu.x86_64_topology import (
    ECX_CMP_LEGACY,
    ECX_TOPOLOGY_EXTENSIONS,
    EDX_HTT,
    LEAF_AMD_FEATURES,
    LEAF_AMD_HIGHEST,
    LEAF_FEATURES,
    LEAF_VENDOR,
    Entry,
    with_topology,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stratovirt.config.machine import Topology

LEAF_KVM_FEATURES = 0x4000_0001
LEAVES_BRAND = (0x8000_0002, 0x8000_0003, 0x8000_0004)

ECX_X2APIC = 1 << 21
ECX_TSC_DEADLINE = 1 << 24
ECX_HYPERVISOR = 1 << 31
ASYNC_PAGE_FAULTS = 1 << 4 | 1 << 10 | 1 << 14
"""KVM_FEATURE_ASYNC_PF, _VMEXIT and _INT (the kernel's Documentation/virt/kvm/x86/cpuid.rst).

Not offered: a guest task that waits for the page-ready notice of one host would wait forever in
a machine restored on another.
"""


def with_brand(
    supported: list[Entry], host_cpuid: Callable[[int], tuple[int, int, int, int]]
) -> list[Entry]:
    """The entries that KVM supports, with the brand string of the host's CPU.

    KVM lists the brand leaves and leaves them empty.
    """
    if host_cpuid(LEAF_AMD_HIGHEST)[0] < LEAVES_BRAND[-1]:
        return supported
    brand = {
        leaf: dict(zip(("eax", "ebx", "ecx", "edx"), host_cpuid(leaf), strict=True))
        for leaf in LEAVES_BRAND
    }
    return [entry | brand.get(entry["function"], {}) for entry in supported]


def guest_cpuid(
    supported: list[Entry], topology: Topology, apic_id: int, *, tsc_deadline: bool
) -> list[Entry]:
    """The entries of the vCPU `apic_id`, derived from those KVM supports."""
    entries = with_topology(supported, topology, apic_id)
    for entry in entries:
        leaf = entry["function"]
        if leaf == LEAF_FEATURES:
            _features(entry, tsc_deadline)
        elif leaf == LEAF_KVM_FEATURES:
            entry["eax"] &= ~ASYNC_PAGE_FAULTS
    return entries


FEATURES = {
    (0x1, 0): ("ecx", "edx"),
    (0x7, 0): ("ebx", "ecx", "edx"),
    (0x7, 1): ("eax",),
    (0xD, 0): ("eax", "edx"),
    (0xD, 1): ("eax",),
    (0x4000_0001, 0): ("eax",),
    (0x8000_0001, 0): ("ecx", "edx"),
    (0x8000_0008, 0): ("ebx",),
}
"""Registers in which each bit is a feature, by leaf and subleaf."""
ADDED = {
    (LEAF_FEATURES, "ecx"): ECX_X2APIC | ECX_HYPERVISOR | ECX_TSC_DEADLINE,
    (LEAF_FEATURES, "edx"): EDX_HTT,
    (LEAF_AMD_FEATURES, "ecx"): ECX_CMP_LEGACY | ECX_TOPOLOGY_EXTENSIONS,
}
"""Feature bits that `guest_cpuid` may set beyond those KVM reports, by leaf and register."""


def lacking_features(entries: list[Entry], supported: list[Entry]) -> str | None:
    """Description of the first features in a guest's `entries` that this host lacks, or None."""
    here = {(entry["function"], entry["index"]): entry for entry in supported}
    for entry in entries:
        leaf = (entry["function"], entry["index"])
        if leaf == (LEAF_VENDOR, 0) and any(
            entry[register] != here[leaf][register] for register in ("ebx", "ecx", "edx")
        ):
            return "the vendor"
        for register in FEATURES.get(leaf, ()):
            bits = entry[register] & ~ADDED.get((leaf[0], register), 0)
            missing = bits & ~here.get(leaf, {}).get(register, 0)
            if missing:
                return f"features 0x{missing:x} of CPUID leaf 0x{leaf[0]:x}.{leaf[1]} {register}"
    return None


def _features(entry: Entry, tsc_deadline: bool) -> None:
    entry["ecx"] |= ECX_X2APIC | ECX_HYPERVISOR
    if tsc_deadline:
        entry["ecx"] |= ECX_TSC_DEADLINE
