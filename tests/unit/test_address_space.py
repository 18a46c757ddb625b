"""The flat view is what the regions mean, and listeners hear exactly of what changed."""

from hypothesis import given
from hypothesis import strategies as st

from stratovirt.memory.address_space import AddressSpace, FlatRange, Region

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
