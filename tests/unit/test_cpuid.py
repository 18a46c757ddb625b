"""Topology in CPUID: APIC ids are unique and every leaf tells the same story, for each vendor."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from stratovirt.config.errors import ConfigError
from stratovirt.config.machine import Smp, Topology
from stratovirt.cpu.x86_64_cpuid import guest_cpuid, with_brand
from stratovirt.cpu.x86_64_topology import ApicIds, Entry, apic_ids

Leaves = dict[tuple[int, int], Entry]
TOPOLOGY_EXTENSIONS = 1 << 22


def entry(leaf: int, index: int = 0, **registers: int) -> Entry:
    return {
        "function": leaf, "index": index, "flags": 0, "eax": 0, "ebx": 0, "ecx": 0, "edx": 0,
        **registers,
    }  # fmt: skip


def word(text: bytes) -> int:
    return int.from_bytes(text, "little")


CACHES = [0x121, 0x122, 0x143, 0x163, 0]
"""EAX of data, instruction, second and third level, and of the end."""
INTEL = [
    entry(0, eax=0x16, ebx=word(b"Genu"), edx=word(b"ineI"), ecx=word(b"ntel")),
    entry(1, eax=0x000606A6),
    *[entry(4, number, eax=eax) for number, eax in enumerate(CACHES)],
    entry(0xB), entry(0x8000_0000, eax=0x8000_0008), entry(0x8000_0001),
    entry(0x8000_0008, eax=0x3030),
]  # fmt: skip
AMD_NAME = {"ebx": word(b"Auth"), "edx": word(b"enti"), "ecx": word(b"cAMD")}
AMD = [
    entry(0, eax=0x10, **AMD_NAME), entry(1, eax=0x00A2_0F10), entry(4), entry(0xB),
    entry(0x8000_0000, eax=0x8000_0021), entry(0x8000_0001, ecx=TOPOLOGY_EXTENSIONS),
    entry(0x8000_0008, eax=0x3030),
    *[entry(0x8000_001D, number, eax=eax) for number, eax in enumerate(CACHES)],
    entry(0x8000_001E),
]  # fmt: skip
OLD_AMD = [
    entry(0, eax=7, **AMD_NAME), entry(1, eax=0x0006_0FB1), entry(4),
    entry(0x8000_0000, eax=0x8000_000A), entry(0x8000_0001),
    entry(0x8000_0005, ecx=64 << 24 | 2 << 16 | 1 << 8 | 64, edx=64 << 24 | 2 << 16 | 1 << 8 | 64),
    entry(0x8000_0006, ecx=512 << 16 | 8 << 12 | 1 << 8 | 64, edx=32 << 18 | 8 << 12 | 64),
    entry(0x8000_0008, eax=0x3030), entry(0x8000_001D), entry(0x8000_001E),
]  # fmt: skip
"""Family 15, as QEMU's emulation: without topology extensions."""


@dataclass(frozen=True)
class Place:
    """Where Linux 6.1 takes a CPU to be; caches by the ids that share them."""

    package: int
    die: int
    core: int
    threads: int
    second_level: int
    last_level: int


def amd_shares(leaves: Leaves, level: int) -> int:
    return next(
        (e["eax"] >> 14 & 0xFFF) + 1
        for (leaf, _), e in leaves.items()
        if leaf == 0x8000_001D and e["eax"] & 0x1F and e["eax"] >> 5 & 7 == level
    )


def intel_shares(leaves: Leaves, level: int) -> int:
    return next(
        (e["eax"] >> 14 & 0xFFF) + 1
        for (leaf, _), e in leaves.items()
        if leaf == 4 and e["eax"] & 0x1F and e["eax"] >> 5 & 7 == level
    )


def seen_by_linux(leaves: Leaves, shares: Callable[[Leaves, int], int]) -> Place:
    """As detect_extended_topology reads leaf 0x1F where leaf 0 allows it, else leaf 0xB."""
    highest = leaves[0, 0]["eax"]
    leaf = 0x1F if highest >= 0x1F and leaves.get((0x1F, 0), entry(0))["ebx"] else 0xB
    assert highest >= leaf
    threads = leaves[leaf, 0]
    assert threads["ecx"] >> 8 == 1
    apic_id, core_shift = threads["edx"], threads["eax"]
    die_shift = package_shift = 0
    number = 1
    while (level := leaves[leaf, number])["ecx"] >> 8:
        if level["ecx"] >> 8 == 2:
            die_shift = level["eax"]
        package_shift = level["eax"]
        number += 1
    assert level["ebx"] == 0
    return Place(
        apic_id >> package_shift,
        (apic_id & (1 << package_shift) - 1) >> die_shift,
        apic_id >> core_shift,
        threads["ebx"],
        apic_id - apic_id % shares(leaves, 2),
        apic_id - apic_id % shares(leaves, 3),
    )


TABLE = [
    "1", "4,sockets=1,cores=4", "6,sockets=2,cores=3", "8,sockets=1,cores=4,threads=2",
    "8,sockets=2,cores=2,threads=2", "8,sockets=1,dies=2,cores=4",
    "8,sockets=1,dies=2,cores=2,threads=2", "16,sockets=2,dies=2,cores=2,threads=2",
    "12,sockets=1,dies=3,cores=2,threads=2", "8,sockets=1,clusters=2,cores=2,threads=2",
    "12,sockets=1,clusters=2,cores=3,threads=2", "16,sockets=2,dies=2,clusters=2,cores=2",
    "128,sockets=1,cores=128", "254,sockets=1,cores=127,threads=2",
]  # fmt: skip
HOSTS = {
    "Intel": (INTEL, intel_shares), "AMD": (AMD, amd_shares), "AMD of old": (OLD_AMD, amd_shares),
}  # fmt: skip


def leaves_of(supported: list[Entry], topology: Topology, index: int) -> Leaves:
    entries = guest_cpuid(supported, topology, ApicIds(topology).of(index), tsc_deadline=True)
    assert all(0 <= e[name] < 1 << 32 for e in entries for name in ("eax", "ebx", "ecx", "edx"))
    found = {(e["function"], e["index"]): e for e in entries}
    assert len(found) == len(entries)
    return found


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("text", TABLE)
def test_linux_reads_the_topology_of_the_command_line(host: str, text: str) -> None:
    supported, shares = HOSTS[host]
    topology = Smp.parse(text).topology
    numbers: dict[tuple[str, int], set[int]] = {}
    needs_extensions = max(topology.threads, topology.dies, topology.clusters) > 1
    if host == "AMD of old" and not needs_extensions:
        return
    for index in range(topology.count):
        place = seen_by_linux(leaves_of(supported, topology, index), shares)
        rest, _ = divmod(index, topology.threads)
        core = rest
        rest, _ = divmod(rest, topology.cores)
        cluster = rest
        rest, _ = divmod(rest, topology.clusters)
        socket, die = divmod(rest, topology.dies)
        assert (place.package, place.die, place.threads) == (socket, die, topology.threads)
        # Two CPUs share what they shared on the command line, and nothing else.
        second = cluster if topology.clusters > 1 else core
        for name, number, seen in (
            ("core", core, place.core), ("second", second, place.second_level),
            ("last", rest, place.last_level),
        ):  # fmt: skip
            numbers.setdefault((name, number), set()).add(seen)
    for name in ("core", "second", "last"):
        groups = [seen for (kind, _), seen in numbers.items() if kind == name]
        assert all(len(seen) == 1 for seen in groups)
        assert len({min(seen) for seen in groups}) == len(groups)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("text", TABLE)
def test_apic_ids_are_unique_and_the_levels_agree(host: str, text: str) -> None:
    smp = Smp.parse(text)
    topology = smp.topology
    ids = ApicIds(topology)
    assert len({ids.of(index) for index in range(smp.cpus)}) == smp.cpus
    for index in range(min(smp.cpus, 16)):
        leaves = leaves_of(HOSTS[host][0], topology, index)
        assert leaves[1, 0]["ebx"] >> 24 == ids.of(index)
        assert leaves[1, 0]["ecx"] & 1 << 24 and leaves[1, 0]["ecx"] & 1 << 21
        smt, core = leaves[0xB, 0], leaves[0xB, 1]
        assert smt["edx"] == ids.of(index)
        assert smt["ebx"] == topology.threads and 1 << smt["eax"] >= topology.threads
        assert core["ecx"] >> 8 == 2 and core["ebx"] == topology.count // topology.sockets
        # Shifting an id right by a level's width must give the number of the level above.
        assert ids.of(index) >> core["eax"] == index // core["ebx"]
        assert bool(leaves[1, 0]["edx"] & 1 << 28) == (core["ebx"] > 1)


@pytest.mark.parametrize("text", TABLE)
def test_amds_nodes_are_the_dies(text: str) -> None:
    topology = Smp.parse(text).topology
    per_die = topology.clusters * topology.cores * topology.threads
    nodes = set()
    for index in range(topology.count):
        leaves = leaves_of(AMD, topology, index)
        place, sizes = leaves[0x8000_001E, 0], leaves[0x8000_0008, 0]["ecx"]
        assert (place["ecx"] >> 8 & 7) + 1 == topology.dies
        assert (place["ebx"] >> 8) + 1 == topology.threads
        assert place["eax"] == leaves[0xB, 0]["edx"]
        assert (sizes & 0xFF) + 1 == topology.count // topology.sockets
        assert place["eax"] >> (sizes >> 12) == index // (sizes % 256 + 1)
        nodes.add((index // per_die, place["ecx"] & 0xFF))
        # Before Zen Linux counts a node's cores anew when a package has several.
        old = leaves_of(OLD_AMD, topology, index).get((0x8000_001E, 0), entry(0))
        assert old["ecx"] >> 8 == 0
    assert len(nodes) == len({node for _, node in nodes}) == topology.sockets * topology.dies


def test_what_is_amds_is_not_told_by_an_intel_processor() -> None:
    # Linux forgets the threads of an Intel processor that says CMP_LEGACY.
    leaves = leaves_of(INTEL, Smp.parse("8,sockets=1,cores=4,threads=2").topology, 0)
    assert leaves[0x8000_0001, 0]["ecx"] == 0 and leaves[0x8000_0008, 0]["ecx"] == 0


def test_an_old_amds_caches_are_told_where_the_topology_extensions_look() -> None:
    leaves = leaves_of(OLD_AMD, Smp.parse("4,sockets=1,cores=2,threads=2").topology, 0)
    assert leaves[0x8000_0000, 0]["eax"] == 0x8000_001E
    sizes = {}
    for (leaf, _), e in leaves.items():
        if leaf == 0x8000_001D and e["eax"] & 0x1F:
            ways, line = (e["ebx"] >> 22) + 1, (e["ebx"] & 0xFFF) + 1
            sizes[e["eax"] >> 5 & 7, e["eax"] & 0x1F] = ways * line * (e["ecx"] + 1) >> 10
    assert sizes == {(1, 1): 64, (1, 2): 64, (2, 3): 512, (3, 3): 16384}


def test_a_topology_whose_apic_ids_do_not_fit_is_one_line() -> None:
    with pytest.raises(ConfigError) as caught:
        apic_ids(Smp.parse("250,sockets=50,cores=5"))
    assert str(caught.value) == (
        "-smp 250: this topology takes APIC ids up to 396, and they end at 254; each level starts "
        "at a power of two, so let threads, cores, clusters and dies be powers of two"
    )


def test_no_guest_waits_for_pages_by_notices_of_this_host() -> None:
    # KVM_FEATURE_CLOCKSOURCE2 stays; ASYNC_PF, ASYNC_PF_VMEXIT and ASYNC_PF_INT go.
    offered = 1 << 3 | 1 << 4 | 1 << 10 | 1 << 14
    supported = [entry(0x4000_0001, eax=offered)]
    found = guest_cpuid(supported, Smp.parse("1").topology, 0, tsc_deadline=True)
    assert [e["eax"] for e in found if e["function"] == 0x4000_0001] == [1 << 3]


def test_the_brand_string_is_the_hosts() -> None:
    def host(leaf: int) -> tuple[int, int, int, int]:
        return (0x8000_0008, 0, 0, 0) if leaf == 0x8000_0000 else (leaf, 1, 2, 3)

    empty = dict.fromkeys(("index", "flags", "eax", "ebx", "ecx", "edx"), 0)
    supported = [{**empty, "function": leaf} for leaf in range(0x8000_0001, 0x8000_0006)]
    found = with_brand(supported, host)
    assert [entry["eax"] for entry in found] == [0, 0x8000_0002, 0x8000_0003, 0x8000_0004, 0]
    assert [entry["edx"] for entry in found] == [0, 3, 3, 3, 0]
    # A CPU without a name.
    assert with_brand(supported, lambda _leaf: (0x8000_0001, 0, 0, 0)) == supported
