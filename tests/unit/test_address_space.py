"""The flat view is what the regions mean, and listeners hear exactly of what changed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratovirt._native.ram_mapping import RamMapping
from stratovirt.memory.address_space import (
    AddressSpace,
    AliasRegion,
    FlatRange,
    PortSpace,
    RamRegion,
    Region,
)

SPAN = 64


@given(st.lists(st.tuples(st.integers(0, 55), st.integers(1, 8)), max_size=8))
def test_each_address_is_answered_by_the_region_of_highest_priority(
    places: list[tuple[int, int]],
) -> None:
    space = AddressSpace("memory", SPAN)
    regions = []
    for priority, (start, size) in enumerate(places):
        region = Region(f"r{priority}", size)
        space.add(start, region, priority)
        regions.append((start, region))
    space.commit()
    answers: list[tuple[Region, int] | None] = [None] * SPAN
    for start, region in regions:
        for offset in range(region.size):
            answers[start + offset] = (region, offset)
    seen: list[tuple[Region, int] | None] = [None] * SPAN
    for flat in space.view:
        for offset in range(flat.size):
            assert seen[flat.start + offset] is None
            seen[flat.start + offset] = (flat.region, flat.offset + offset)
    assert seen == answers


class Recorder:
    def __init__(self) -> None:
        self.removed: list[str] = []
        self.added: list[str] = []

    def changed(
        self, removed: list[FlatRange], added: list[FlatRange], view: list[FlatRange]
    ) -> None:
        assert view == sorted(view, key=lambda flat: flat.start)
        self.removed = [flat.region.name for flat in removed]
        self.added = [flat.region.name for flat in added]


def test_a_listener_hears_of_the_map_it_joins_and_of_changes_only() -> None:
    space = AddressSpace("memory", SPAN)
    first, second = Region("first", 4), Region("second", 4)
    space.add(0, first)
    space.commit()
    recorder = Recorder()
    space.listen(recorder)
    assert recorder.added == ["first"]
    space.add(8, second)
    space.commit()
    assert (recorder.removed, recorder.added) == ([], ["second"])
    space.remove(first)
    space.commit()
    assert (recorder.removed, recorder.added) == (["first"], [])


def places(space: AddressSpace) -> list[tuple[int, int, str, int]]:
    return [(flat.start, flat.size, flat.region.name, flat.offset) for flat in space.view]


def test_an_alias_shows_a_part_of_its_target_and_an_alias_of_an_alias_that_part() -> None:
    space, target = AddressSpace("memory", SPAN), Region("target", 16)
    outer = AliasRegion("outer", 8, target, 4)
    space.add(0, outer)
    space.add(32, AliasRegion("inner", 4, outer, 3))
    space.add(2, Region("over", 2), priority=1)
    space.commit()
    assert places(space) == [
        (0, 2, "target", 4), (2, 2, "over", 0), (4, 4, "target", 8), (32, 4, "target", 7),
    ]  # fmt: skip


@given(
    st.lists(st.tuples(st.integers(0, 55), st.integers(1, 8)), max_size=8),
    st.integers(0, SPAN - 1), st.integers(1, SPAN), st.integers(0, SPAN - 1),
)  # fmt: skip
def test_a_window_shows_what_the_other_space_has_and_lets_through_where_it_has_nothing(
    regions: list[tuple[int, int]], at: int, size: int, offset: int
) -> None:
    size = min(size, SPAN - at, SPAN - offset)
    shown, space = AddressSpace("shown", SPAN), AddressSpace("memory", SPAN)
    behind = Region("behind", SPAN)
    space.add(0, behind, priority=-1)
    space.add(at, AliasRegion("window", size, shown, offset))
    space.commit()
    for priority, (start, length) in enumerate(regions):
        shown.add(start, Region(f"r{priority}", length), priority)
    shown.commit()
    there = {
        flat.start + index: (flat.region, flat.offset + index)
        for flat in shown.view
        for index in range(flat.size)
    }
    seen = [(flat.region, flat.offset + i) for flat in space.view for i in range(flat.size)]
    expected = [
        there.get(address - at + offset, (behind, address))
        if at <= address < at + size
        else (behind, address)
        for address in range(SPAN)
    ]
    assert seen == expected


def test_listeners_hear_of_changes_that_a_window_shows_until_it_is_removed() -> None:
    ports, memory, recorder = PortSpace(), AddressSpace("memory", 1 << 32), Recorder()
    window = AliasRegion("window", ports.limit, ports)
    memory.add(0x1000_0000, window)
    memory.commit()
    memory.listen(recorder)
    device = Region("device", 8)
    ports.add(0x3F8, device)
    ports.commit()
    assert recorder.added == ["device"] and places(memory) == [(0x1000_03F8, 8, "device", 0)]
    ports.remove(device)
    ports.commit()
    assert recorder.removed == ["device"] and not memory.view
    memory.remove(window)
    memory.commit()
    ports.add(0x3F8, device)
    recorder.added = ["not called"]
    ports.commit()
    assert recorder.added == ["not called"] and not memory.view


def test_who_maps_memory_sees_the_mapping_of_an_aliased_target() -> None:
    ram = RamRegion("ram", 0x4000, RamMapping(0x8000), 0x1000)
    space = AddressSpace("memory", 1 << 32)
    space.add(0, AliasRegion("low", 0x1000, ram))
    space.add(1 << 20, AliasRegion("high", 0x3000, ram, 0x1000))
    space.commit()
    offsets = {}
    for flat in space.view:
        assert isinstance(flat.region, RamRegion) and flat.region.mapping is ram.mapping
        offsets[flat.start] = flat.region.offset + flat.offset
    assert offsets == {0: 0x1000, 1 << 20: 0x2000}


def test_an_alias_reaches_no_further_than_its_target_and_shows_no_space_in_itself() -> None:
    space, other = AddressSpace("memory", SPAN), AddressSpace("other", SPAN)
    for size, offset in ((17, 0), (1, 16), (4, -1)):
        with pytest.raises(ValueError, match="reaches past target"):
            AliasRegion("alias", size, Region("target", 16), offset)
    with pytest.raises(ValueError, match="in itself"):
        space.add(0, AliasRegion("mirror", SPAN, space))
    space.add(0, AliasRegion("there", SPAN, other))
    with pytest.raises(ValueError, match="in itself"):
        other.add(0, AliasRegion("back", SPAN, space))
    with pytest.raises(ValueError, match="in itself"):
        other.add(0, AliasRegion("back by two", 4, AliasRegion("back", SPAN, space)))
