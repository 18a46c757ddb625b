"""CPUID of a guest: what KVM supports, with the topology of -smp (Intel SDM 2A, AMD APM 3)."""

from __future__ import annotations

from stratovirt.config.machine import Topology

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

LEAF_VENDOR = 0x0
LEAF_FEATURES = 0x1
LEAF_CACHE = 0x4
LEAF_TOPOLOGY = 0xB
LEAF_TOPOLOGY_V2 = 0x1F
LEAF_KVM_FEATURES = 0x4000_0001
LEAF_AMD_HIGHEST = 0x8000_0000
LEAF_AMD_FEATURES = 0x8000_0001
LEAVES_BRAND = (0x8000_0002, 0x8000_0003, 0x8000_0004)
LEAF_AMD_SIZES = 0x8000_0008
LEAF_AMD_CACHE = 0x8000_001D
LEAF_AMD_TOPOLOGY = 0x8000_001E

ECX_X2APIC = 1 << 21
ECX_TSC_DEADLINE = 1 << 24
ECX_HYPERVISOR = 1 << 31
EDX_HTT = 1 << 28
ECX_CMP_LEGACY = 1 << 1
ECX_TOPOLOGY_EXTENSIONS = 1 << 22
ASYNC_PAGE_FAULTS = 1 << 4 | 1 << 10 | 1 << 14
"""KVM_FEATURE_ASYNC_PF, _VMEXIT and _INT (the kernel's Documentation/virt/kvm/x86/cpuid.rst).

Not offered.  A task of the guest that waits for a page of the host waits for a notice of this
host; in a machine restored elsewhere that notice may never come.
"""
AMD_VENDOR_EBX = int.from_bytes(b"Auth", "little")
SIGNIFICANT_INDEX = 1
"""KVM_CPUID_FLAG_SIGNIFCANT_INDEX: the entry is for one value of ECX."""

LEVEL_SMT, LEVEL_CORE, LEVEL_DIE = 1, 2, 5

Entry = dict[str, int]


def _width(count: int) -> int:
    """Bits that number `count` things."""
    return (count - 1).bit_length()


class ApicIds:
    """APIC ids by topology: each level gets a field of bits, thread lowest (SDM 3A, 9.9.1)."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self.smt_shift = _width(topology.threads)
        cores = topology.cores * topology.clusters
        self.core_shift = self.smt_shift + _width(cores)
        self.die_shift = self.core_shift + _width(topology.dies)

    def of(self, index: int) -> int:
        """The APIC id of vCPU `index`."""
        topology = self._topology
        rest, thread = divmod(index, topology.threads)
        rest, core = divmod(rest, topology.cores * topology.clusters)
        socket, die = divmod(rest, topology.dies)
        return thread | core << self.smt_shift | die << self.core_shift | socket << self.die_shift


def with_brand(
    supported: list[Entry], host_cpuid: Callable[[int], tuple[int, int, int, int]]
) -> list[Entry]:
    """The entries that KVM supports, with the brand string of the host's CPU.

    KVM lists its leaves and leaves them empty.
    """
    if host_cpuid(LEAF_AMD_HIGHEST)[0] < LEAVES_BRAND[-1]:
        return supported
    brand = {
        leaf: dict(zip(("eax", "ebx", "ecx", "edx"), host_cpuid(leaf), strict=True))
        for leaf in LEAVES_BRAND
    }
    return [entry | brand.get(entry["function"], {}) for entry in supported]


def guest_cpuid(
    supported: list[Entry], topology: Topology, index: int, *, tsc_deadline: bool
) -> list[Entry]:
    """The entries for vCPU `index`, from those KVM supports."""
    apic_ids = ApicIds(topology)
    apic_id = apic_ids.of(index)
    per_socket = topology.count // topology.sockets
    entries: list[Entry] = []
    amd_threads = topology.threads > 1 and any(
        entry["function"] == LEAF_VENDOR and entry["ebx"] == AMD_VENDOR_EBX for entry in supported
    )
    for original in supported:
        entry = dict(original)
        leaf = entry["function"]
        if leaf in (LEAF_TOPOLOGY, LEAF_TOPOLOGY_V2):
            continue
        if leaf == LEAF_FEATURES:
            _features(entry, apic_id, 1 << apic_ids.die_shift, per_socket, tsc_deadline)
        elif leaf == LEAF_CACHE and entry["eax"] & 0x1F:
            _cache(entry, apic_ids)
        elif leaf == LEAF_KVM_FEATURES:
            entry["eax"] &= ~ASYNC_PAGE_FAULTS
        elif leaf == LEAF_AMD_HIGHEST and amd_threads:
            entry["eax"] = max(entry["eax"], LEAF_AMD_TOPOLOGY)
        elif leaf == LEAF_AMD_FEATURES and per_socket > 1:
            entry["ecx"] |= ECX_CMP_LEGACY
            if amd_threads:
                # AMD's CPUs tell threads from cores only by the topology extensions.
                entry["ecx"] |= ECX_TOPOLOGY_EXTENSIONS
        elif leaf == LEAF_AMD_SIZES:
            entry["ecx"] = apic_ids.die_shift << 12 | per_socket - 1
        elif leaf == LEAF_AMD_CACHE and entry["eax"] & 0x1F:
            _amd_cache(entry, topology, per_socket)
        elif leaf == LEAF_AMD_TOPOLOGY:
            _amd_topology(entry, topology, apic_ids, apic_id)
        entries.append(entry)
    if amd_threads and not any(entry["function"] == LEAF_AMD_TOPOLOGY for entry in entries):
        entry = dict.fromkeys(("index", "flags", "eax", "ebx", "ecx", "edx"), 0)
        entry["function"] = LEAF_AMD_TOPOLOGY
        _amd_topology(entry, topology, apic_ids, apic_id)
        entries.append(entry)
    entries += _extended_topology(LEAF_TOPOLOGY, topology, apic_ids, apic_id)
    if topology.dies > 1:
        entries += _extended_topology(LEAF_TOPOLOGY_V2, topology, apic_ids, apic_id)
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
"""Registers each of whose bits is a feature, by leaf and subleaf."""
ADDED = {
    (LEAF_FEATURES, "ecx"): ECX_X2APIC | ECX_HYPERVISOR | ECX_TSC_DEADLINE,
    (LEAF_FEATURES, "edx"): EDX_HTT,
    (LEAF_AMD_FEATURES, "ecx"): ECX_CMP_LEGACY | ECX_TOPOLOGY_EXTENSIONS,
}
"""What `guest_cpuid` adds to what KVM supports."""


def lacking_features(entries: list[Entry], supported: list[Entry]) -> str | None:
    """The first features of a guest's `entries` that this host lacks, in words."""
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


def _features(
    entry: Entry, apic_id: int, id_space: int, per_socket: int, tsc_deadline: bool
) -> None:
    entry["ebx"] = entry["ebx"] & 0xFFFF | apic_id << 24
    entry["ecx"] |= ECX_X2APIC | ECX_HYPERVISOR
    if tsc_deadline:
        entry["ecx"] |= ECX_TSC_DEADLINE
    entry["edx"] &= ~EDX_HTT
    if per_socket > 1:
        entry["edx"] |= EDX_HTT
        # Addressable ids in a package: the size of the id space, a power of two.
        entry["ebx"] |= min(id_space, 255) << 16


def _cache(entry: Entry, apic_ids: ApicIds) -> None:
    level = entry["eax"] >> 5 & 7
    # First and second level belong to a core, the last one to the package.
    sharing = 1 << apic_ids.smt_shift if level < 3 else 1 << apic_ids.die_shift
    core_ids = 1 << (apic_ids.die_shift - apic_ids.smt_shift)
    # The field has six bits; leaf 0xB tells the rest.
    core_ids = min(core_ids, 64)
    entry["eax"] = entry["eax"] & 0x3FFF | (sharing - 1) << 14 | (core_ids - 1) << 26


def _amd_cache(entry: Entry, topology: Topology, per_socket: int) -> None:
    level = entry["eax"] >> 5 & 7
    sharing = topology.threads if level < 3 else per_socket // topology.dies
    entry["eax"] = entry["eax"] & 0x3FFF | (sharing - 1) << 14


def _amd_topology(entry: Entry, topology: Topology, apic_ids: ApicIds, apic_id: int) -> None:
    entry["eax"] = apic_id
    entry["ebx"] = (apic_id >> apic_ids.smt_shift) & 0xFF | (topology.threads - 1) << 8
    entry["ecx"] = apic_id >> apic_ids.die_shift & 0xFF | (topology.dies - 1) << 8


def _extended_topology(
    leaf: int,
    topology: Topology,
    apic_ids: ApicIds,
    apic_id: int,
) -> list[Entry]:
    cores = topology.cores * topology.clusters * topology.threads
    levels = [(LEVEL_SMT, apic_ids.smt_shift, topology.threads)]
    if leaf == LEAF_TOPOLOGY_V2:
        levels.append((LEVEL_CORE, apic_ids.core_shift, cores))
        levels.append((LEVEL_DIE, apic_ids.die_shift, cores * topology.dies))
    else:
        # Leaf 0xB knows no dies: its core level covers the package.
        levels.append((LEVEL_CORE, apic_ids.die_shift, cores * topology.dies))
    levels.append((0, 0, 0))
    return [
        {
            "function": leaf,
            "index": number,
            "flags": SIGNIFICANT_INDEX,
            "eax": shift,
            "ebx": count,
            "ecx": kind << 8 | number,
            "edx": apic_id,
        }
        for number, (kind, shift, count) in enumerate(levels)
    ]
