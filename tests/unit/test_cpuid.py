"""Topology in CPUID: APIC ids are unique and every leaf tells the same story."""

import pytest

from stratovirt.config.machine import Smp
from stratovirt.cpu.x86_64_cpuid import ApicIds, guest_cpuid, with_brand

SUPPORTED = [
    {"function": f, "index": i, "flags": 0, "eax": a, "ebx": 0, "ecx": 0, "edx": 1 << 28}
    for f, i, a in [(0, 0, 13), (1, 0, 0), (4, 0, 0x121), (4, 1, 0x143), (4, 2, 0x163), (4, 3, 0),
                    (0xB, 0, 0), (0x80000001, 0, 0), (0x80000008, 0, 0x3030),
                    (0x8000001D, 0, 0x121), (0x8000001E, 0, 0)]
]  # fmt: skip


@pytest.mark.parametrize(
    "text", ["1", "4", "6,sockets=2,cores=3", "8,sockets=1,cores=2,threads=2,dies=2", "254"]
)
def test_apic_ids_are_unique_and_the_levels_agree(text: str) -> None:
    smp = Smp.parse(text)
    topology = smp.topology
    ids = ApicIds(topology)
    assert len({ids.of(index) for index in range(smp.cpus)}) == smp.cpus
    for index in range(min(smp.cpus, 16)):
        entries = guest_cpuid(SUPPORTED, topology, index, tsc_deadline=True)
        assert all(0 <= e[r] < 1 << 32 for e in entries for r in ("eax", "ebx", "ecx", "edx"))
        leaves = {(e["function"], e["index"]): e for e in entries}
        assert leaves[1, 0]["ebx"] >> 24 == ids.of(index) & 0xFF
        assert leaves[1, 0]["ecx"] & 1 << 24 and leaves[1, 0]["ecx"] & 1 << 21
        smt, core, end = leaves[0xB, 0], leaves[0xB, 1], leaves[0xB, 2]
        assert smt["edx"] == ids.of(index) and smt["ecx"] >> 8 == 1
        assert smt["ebx"] == topology.threads and 1 << smt["eax"] >= topology.threads
        assert core["ecx"] >> 8 == 2 and core["ebx"] == topology.count // topology.sockets
        assert end["ecx"] >> 8 == 0 and end["ebx"] == 0
        # Shifting an id right by a level's width must give the number of the level above.
        assert ids.of(index) >> core["eax"] == index // core["ebx"]
        assert bool(leaves[1, 0]["edx"] & 1 << 28) == (core["ebx"] > 1)
        assert (leaves[0x80000008, 0]["ecx"] & 0xFF) + 1 == core["ebx"]


def test_no_guest_waits_for_pages_by_notices_of_this_host() -> None:
    # KVM_FEATURE_CLOCKSOURCE2 stays; ASYNC_PF, ASYNC_PF_VMEXIT and ASYNC_PF_INT go.
    offered = 1 << 3 | 1 << 4 | 1 << 10 | 1 << 14
    entry = dict.fromkeys(("index", "flags", "ebx", "ecx", "edx"), 0)
    supported = [{**entry, "function": 0x4000_0001, "eax": offered}]
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
