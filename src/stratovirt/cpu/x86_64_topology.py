"""The topology of -smp in CPUID: APIC ids, levels and shared caches (SDM 2A, AMD APM 3)."""

from __future__ import annotations

from stratovirt.config.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.config.machine import Smp, Topology

LEAF_VENDOR = 0x0
LEAF_FEATURES = 0x1
LEAF_CACHE = 0x4
LEAF_TOPOLOGY = 0xB
LEAF_TOPOLOGY_V2 = 0x1F
LEAF_AMD_HIGHEST = 0x8000_0000
LEAF_AMD_FEATURES = 0x8000_0001
LEAF_AMD_FIRST_CACHES = 0x8000_0005
LEAF_AMD_OTHER_CACHES = 0x8000_0006
LEAF_AMD_SIZES = 0x8000_0008
LEAF_AMD_CACHE = 0x8000_001D
LEAF_AMD_TOPOLOGY = 0x8000_001E

EDX_HTT = 1 << 28
ECX_CMP_LEGACY = 1 << 1
ECX_TOPOLOGY_EXTENSIONS = 1 << 22
AMD_VENDORS = tuple(int.from_bytes(name, "little") for name in (b"Auth", b"Hygo"))
"""EBX of leaf 0: AuthenticAMD and HygonGenuine."""
ZEN = 0x17
"""The first AMD family that numbers the nodes of a package as here."""
SIGNIFICANT_INDEX = 1
"""KVM_CPUID_FLAG_SIGNIFCANT_INDEX: the entry is for one value of ECX."""

LEVEL_SMT, LEVEL_CORE, LEVEL_DIE = 1, 2, 5
CORE_IDS_MOST = 1 << 6
"""Most core ids per package that leaf 4 can express (EAX bits 31:26)."""
IDS_IN_PACKAGE_MOST = 255
LAST_APIC_ID = 254
"""255 is the broadcast id in 8-bit xAPIC messages and tables."""
NODES_IN_PACKAGE_MOST = 8
DATA_CACHE, INSTRUCTION_CACHE, UNIFIED_CACHE = 1, 2, 3
SELF_INITIALIZING = 1 << 8
WAYS = {1: 1, 2: 2, 4: 4, 6: 8, 8: 16, 0xA: 32, 0xB: 48, 0xC: 64, 0xD: 96, 0xE: 128}
"""Number of ways by associativity code of leaf 0x8000_0006; 16 for any other code."""

Entry = dict[str, int]


def _width(count: int) -> int:
    """Number of bits that distinguish `count` ids."""
    return (count - 1).bit_length()


class ApicIds:
    """APIC ids by topology: each level gets a field of bits, thread lowest (SDM 3A, 9.9.1).

    Shifted right by a level's shift, an id is the number of the next level up.
    """

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self.smt_shift = _width(topology.threads)
        self.cluster_shift = self.smt_shift + _width(topology.cores)
        self.core_shift = self.cluster_shift + _width(topology.clusters)
        self.die_shift = self.core_shift + _width(topology.dies)

    def of(self, index: int) -> int:
        """The APIC id of vCPU `index`."""
        topology = self._topology
        rest, thread = divmod(index, topology.threads)
        rest, core = divmod(rest, topology.cores)
        rest, cluster = divmod(rest, topology.clusters)
        socket, die = divmod(rest, topology.dies)
        return (
            thread
            | core << self.smt_shift
            | cluster << self.cluster_shift
            | die << self.core_shift
            | socket << self.die_shift
        )

    def cache_shift(self, level: int) -> int:
        """The shift of the level that a cache belongs to.

        The first is a core's, the last a die's.  The second is a core's as well, or a cluster's:
        Linux on x86 calls those CPUs a cluster that share their second level.
        """
        if level > 2:
            return self.core_shift
        return self.cluster_shift if level == 2 and self._topology.clusters > 1 else self.smt_shift


def apic_ids(smp: Smp) -> list[int]:
    """APIC ids of all possible vCPUs, present ones first; raises ConfigError."""
    numbers = ApicIds(smp.topology)
    found = [numbers.of(index) for index in range(smp.maximum)]
    if found[-1] > LAST_APIC_ID:
        raise ConfigError(
            f"-smp {smp.cpus}: this topology takes APIC ids up to {found[-1]}, and they end at "
            f"{LAST_APIC_ID}; each level starts at a power of two, so let threads, cores, "
            "clusters and dies be powers of two"
        )
    return found


def with_topology(supported: list[Entry], topology: Topology, apic_id: int) -> list[Entry]:
    """Copies of the entries that KVM supports, with the topology as the vCPU `apic_id` sees it."""
    dropped = (LEAF_TOPOLOGY, LEAF_TOPOLOGY_V2)
    entries = [dict(entry) for entry in supported if entry["function"] not in dropped]
    ids = ApicIds(topology)
    per_package = topology.count // topology.sockets
    first = {entry["function"]: entry for entry in reversed(entries)}
    vendor, features = first.get(LEAF_VENDOR), first.get(LEAF_FEATURES)
    if vendor is not None:
        highest = LEAF_TOPOLOGY_V2 if topology.dies > 1 else LEAF_TOPOLOGY
        vendor["eax"] = max(vendor["eax"], highest)
    if features is not None:
        _tell_package(features, apic_id, 1 << ids.die_shift, per_package)
    if vendor is not None and vendor["ebx"] in AMD_VENDORS:
        _tell_as_amd(entries, first, topology, ids, apic_id)
    for entry in entries:
        if entry["function"] == LEAF_CACHE and entry["eax"] & 0x1F:
            core_ids = min(1 << (ids.die_shift - ids.smt_shift), CORE_IDS_MOST)
            _tell_sharing(entry, ids)
            entry["eax"] |= (core_ids - 1) << 26
    cores = topology.cores * topology.clusters * topology.threads
    threads = (LEVEL_SMT, ids.smt_shift, topology.threads)
    # Leaf 0xB has no die level: its core level covers the package.
    package = (LEVEL_CORE, ids.die_shift, per_package)
    entries += _levels(LEAF_TOPOLOGY, [threads, package], apic_id)
    if topology.dies > 1:
        within = [threads, (LEVEL_CORE, ids.core_shift, cores)]
        dies = (LEVEL_DIE, ids.die_shift, per_package)
        entries += _levels(LEAF_TOPOLOGY_V2, [*within, dies], apic_id)
    return entries


def _tell_package(entry: Entry, apic_id: int, id_space: int, per_package: int) -> None:
    entry["ebx"] = entry["ebx"] & 0xFFFF | apic_id << 24
    entry["edx"] &= ~EDX_HTT
    if per_package > 1:
        entry["edx"] |= EDX_HTT
        # Addressable ids in a package: the size of the id space, a power of two.
        entry["ebx"] |= min(id_space, IDS_IN_PACKAGE_MOST) << 16


def _tell_sharing(entry: Entry, ids: ApicIds) -> None:
    """Set the number of APIC ids that share a cache; leaf 4 and AMD's have the same field."""
    sharing = 1 << ids.cache_shift(entry["eax"] >> 5 & 7)
    entry["eax"] = entry["eax"] & 0x3FFF | (sharing - 1) << 14


def _tell_as_amd(
    entries: list[Entry], first: dict[int, Entry], topology: Topology, ids: ApicIds, apic_id: int
) -> None:
    """Fill in AMD's leaves; threads, dies and clusters need the topology extensions."""
    per_package = topology.count // topology.sockets
    extended = first.get(LEAF_AMD_FEATURES)
    if extended is None:
        return
    if per_package > 1:
        extended["ecx"] |= ECX_CMP_LEGACY
    if LEAF_AMD_SIZES in first:
        first[LEAF_AMD_SIZES]["ecx"] = ids.die_shift << 12 | per_package - 1
    if not extended["ecx"] & ECX_TOPOLOGY_EXTENSIONS:
        if topology.threads == topology.dies == topology.clusters == 1:
            return
        extended["ecx"] |= ECX_TOPOLOGY_EXTENSIONS
        first[LEAF_AMD_HIGHEST]["eax"] = max(first[LEAF_AMD_HIGHEST]["eax"], LEAF_AMD_TOPOLOGY)
        # This host describes its caches in the older leaves only.
        blank = (LEAF_AMD_CACHE, LEAF_AMD_TOPOLOGY)
        entries[:] = [entry for entry in entries if entry["function"] not in blank]
        entries += _caches(first)
    nodes = min(topology.dies, NODES_IN_PACKAGE_MOST) if _family(first) >= ZEN else 1
    place = next((entry for entry in entries if entry["function"] == LEAF_AMD_TOPOLOGY), None)
    if place is None:
        place = _entry(LEAF_AMD_TOPOLOGY)
        entries.append(place)
    place["eax"] = apic_id
    place["ebx"] = (apic_id >> ids.smt_shift) & 0xFF | (topology.threads - 1) << 8
    # Earlier families restart core numbers in each node, which -smp does not: one node a package.
    node = apic_id >> (ids.core_shift if nodes > 1 else ids.die_shift)
    place["ecx"] = node & 0xFF | (nodes - 1) << 8
    for entry in entries:
        if entry["function"] == LEAF_AMD_CACHE and entry["eax"] & 0x1F:
            _tell_sharing(entry, ids)


def _family(first: dict[int, Entry]) -> int:
    signature = first[LEAF_FEATURES]["eax"] if LEAF_FEATURES in first else 0
    base = signature >> 8 & 0xF
    return base + (signature >> 20 & 0xFF) if base == 0xF else base


def _caches(first: dict[int, Entry]) -> list[Entry]:
    """Entries of leaf 0x8000_001D, built from the older leaves 0x8000_0005 and 0x8000_0006."""
    nothing = _entry(0)
    own = first.get(LEAF_AMD_FIRST_CACHES, nothing)
    other = first.get(LEAF_AMD_OTHER_CACHES, nothing)
    found = [
        (DATA_CACHE, 1, (own["ecx"] >> 24) << 10, own["ecx"] >> 16 & 0xFF, own["ecx"]),
        (INSTRUCTION_CACHE, 1, (own["edx"] >> 24) << 10, own["edx"] >> 16 & 0xFF, own["edx"]),
        (UNIFIED_CACHE, 2, (other["ecx"] >> 16) << 10, _ways(other["ecx"]), other["ecx"]),
        (UNIFIED_CACHE, 3, (other["edx"] >> 18) << 19, _ways(other["edx"]), other["edx"]),
    ]
    entries: list[Entry] = []
    for kind, level, size_bytes, ways, register in found:
        line = register & 0xFF
        sets = size_bytes // (line * ways) if line and ways else 0
        if sets:
            entry = _entry(LEAF_AMD_CACHE, len(entries))
            entry["eax"] = kind | level << 5 | SELF_INITIALIZING
            entry["ebx"], entry["ecx"] = (line - 1) | (ways - 1) << 22, sets - 1
            entries.append(entry)
    return [*entries, _entry(LEAF_AMD_CACHE, len(entries))]


def _ways(register: int) -> int:
    return WAYS.get(register >> 12 & 0xF, 16)


def _entry(leaf: int, index: int | None = None) -> Entry:
    """An entry of zeros; `index` makes it a subleaf selected by ECX."""
    entry = dict.fromkeys(("eax", "ebx", "ecx", "edx"), 0)
    flags = 0 if index is None else SIGNIFICANT_INDEX
    return {"function": leaf, "index": index or 0, "flags": flags, **entry}


def _levels(leaf: int, levels: list[tuple[int, int, int]], apic_id: int) -> list[Entry]:
    """Subleaves of leaf 0xB or 0x1F from (type, shift, threads), and a terminating one."""
    entries = []
    for number, (kind, shift, count) in enumerate([*levels, (0, 0, 0)]):
        entry = _entry(leaf, number)
        entry["eax"], entry["ebx"], entry["ecx"] = shift, count, kind << 8 | number
        entry["edx"] = apic_id
        entries.append(entry)
    return entries
