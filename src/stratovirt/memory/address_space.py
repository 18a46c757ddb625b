"""The address map: regions with priorities, their flat view, and listeners for its changes.

An AddressSpace holds regions at addresses with priorities.  `commit` flattens them to disjoint
ranges and calls each listener with the removed and the added ranges, in one transaction.  An
AliasRegion shows part of another region or space; listeners hear of what it shows.
"""

from __future__ import annotations

from stratovirt._native.dispatch import NativeOps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Protocol

    class Handler(Protocol):
        """A device's registers, seen as a range of offsets."""

        def read(self, offset: int, size: int) -> int:
            """The `size`-byte little-endian value at `offset`."""

        def write(self, offset: int, size: int, value: int) -> None:
            """Store a `size`-byte little-endian value at `offset`."""

    class Mapping(Protocol):
        """Host memory at a fixed address."""

        @property
        def address(self) -> int:
            """Host virtual address of the first byte."""

    class Listener(Protocol):
        """Follows the flat view of an address space."""

        def changed(
            self, removed: list[FlatRange], added: list[FlatRange], view: list[FlatRange]
        ) -> None:
            """The map changed; `view` is all of it, sorted by address."""


PORTS = 1 << 16
"""I/O ports that can be addressed."""


class Region:
    """A named range of `size` bytes: RAM or registers."""

    def __init__(self, name: str, size: int) -> None:
        if size <= 0:
            raise ValueError(f"region {name} has no size")
        self.name = name
        self.size = size


class RamRegion(Region):
    """Part of a host mapping that the guest reaches without an exit."""

    readonly = False

    def __init__(self, name: str, size: int, mapping: Mapping, offset: int) -> None:
        super().__init__(name, size)
        self.mapping = mapping
        self.offset = offset


class DeviceRegion(RamRegion):
    """A host device's memory mapped into the guest; other devices' DMA must not target it."""


class RomRegion(RamRegion):
    """Memory that the guest reads and executes; its writes go to a handler."""

    readonly = True

    def __init__(
        self, name: str, size: int, mapping: Mapping, offset: int, handler: Handler
    ) -> None:
        super().__init__(name, size, mapping, offset)
        self.handler = handler


class IoRegion(Region):
    """Registers answered by a Python device."""

    def __init__(self, name: str, size: int, handler: Handler) -> None:
        super().__init__(name, size)
        self.handler = handler


class NativeRegion(Region):
    """Registers answered by native code without the GIL."""

    def __init__(self, name: str, size: int, ops: NativeOps) -> None:
        super().__init__(name, size)
        self.ops = ops


class AliasRegion(Region):
    """A window onto `size` bytes of another region or address space, from `offset` on.

    The flat view has the target's regions in its place.  Where a target space maps nothing, the
    window is transparent: a region of lower priority answers.  Raises ValueError for a window that
    reaches past its target.
    """

    def __init__(
        self, name: str, size: int, target: Region | AddressSpace, offset: int = 0
    ) -> None:
        super().__init__(name, size)
        limit = target.limit if isinstance(target, AddressSpace) else target.size
        if offset < 0 or offset + size > limit:
            raise ValueError(f"{name} reaches past {target.name}")
        self.target = target
        self.offset = offset

    @property
    def space(self) -> AddressSpace | None:
        """The address space that it shows in the end; None if it shows a region."""
        if isinstance(self.target, AddressSpace):
            return self.target
        return self.target.space if isinstance(self.target, AliasRegion) else None


class FlatRange:
    """One range of the flat view: [start, start+size) maps `region` from `offset` on."""

    __slots__ = ("offset", "region", "size", "start")

    def __init__(self, start: int, size: int, region: Region, offset: int) -> None:
        self.start, self.size, self.region, self.offset = start, size, region, offset

    def key(self) -> tuple[int, int, int, int]:
        """Key that is equal for ranges with the same place, region and offset."""
        return self.start, self.size, id(self.region), self.offset


class AddressSpace:
    """The memory or port space of one machine; `limit` is its size in bytes."""

    has_ports = False
    """Whether its addresses are I/O ports."""

    def __init__(self, name: str, limit: int) -> None:
        self.name = name
        self.limit = limit
        self._regions: list[tuple[int, int, Region]] = []
        self._listeners: list[Listener] = []
        self._onlookers: list[AddressSpace] = []
        """The spaces that show this one through an alias, one entry for each alias."""
        self.view: list[FlatRange] = []

    def add(self, start: int, region: Region, priority: int = 0) -> None:
        """Map `region` at `start`; where regions overlap, the higher priority answers.

        Raises ValueError when it does not fit, overlaps another of the same priority, or would
        show this space in itself.
        """
        if start < 0 or start + region.size > self.limit:
            raise ValueError(f"{region.name} at 0x{start:x} lies outside {self.name} space")
        for other_start, other_priority, other in self._regions:
            overlaps = start < other_start + other.size and other_start < start + region.size
            if overlaps and priority == other_priority:
                raise ValueError(f"{region.name} overlaps {other.name} in {self.name} space")
        shown = region.space if isinstance(region, AliasRegion) else None
        if shown is not None:
            if shown is self or self._is_seen_by(shown):
                raise ValueError(f"{region.name} shows {self.name} space in itself")
            shown._onlookers.append(self)
        self._regions.append((start, priority, region))

    def _is_seen_by(self, space: AddressSpace) -> bool:
        return any(seer is space or seer._is_seen_by(space) for seer in self._onlookers)

    def remove(self, region: Region) -> None:
        """Take `region` out of the map."""
        kept = [entry for entry in self._regions if entry[2] is not region]
        shown = region.space if isinstance(region, AliasRegion) else None
        if shown is not None and len(kept) < len(self._regions):
            shown._onlookers.remove(self)
        self._regions = kept

    def listen(self, listener: Listener) -> None:
        """Register `listener`; it is called with the current view now and after every change."""
        self._listeners.append(listener)
        listener.changed([], list(self.view), list(self.view))

    def forget(self, listener: Listener) -> None:
        """Unregister `listener`; it has to undo its own mappings."""
        self._listeners.remove(listener)

    def commit(self) -> None:
        """Apply the additions and removals since the last commit and notify the listeners."""
        fresh = self._flatten()
        old_keys = {entry.key() for entry in self.view}
        new_keys = {entry.key() for entry in fresh}
        removed = [entry for entry in self.view if entry.key() not in new_keys]
        added = [entry for entry in fresh if entry.key() not in old_keys]
        self.view = fresh
        for listener in self._listeners:
            listener.changed(removed, added, fresh)
        for space in dict.fromkeys(self._onlookers):
            space.commit()

    def _flatten(self) -> list[FlatRange]:
        flat: list[FlatRange] = []
        for start, _, region in sorted(self._regions, key=lambda entry: -entry[1]):
            holes = [(start, start + region.size)]
            for taken in flat:
                taken_end = taken.start + taken.size
                holes = [
                    piece
                    for low, high in holes
                    for piece in ((low, min(high, taken.start)), (max(low, taken_end), high))
                    if piece[0] < piece[1]
                ]
            for low, high in holes:
                flat += _shown(low, high - low, region, low - start)
        flat.sort(key=lambda entry: entry.start)
        return flat


def _shown(start: int, size: int, region: Region, offset: int) -> Iterator[FlatRange]:
    """The flat ranges of [start, start+size), which maps `region` from `offset` on."""
    if not isinstance(region, AliasRegion):
        yield FlatRange(start, size, region, offset)
    elif isinstance(region.target, AddressSpace):
        first = region.offset + offset
        for piece in region.target.view:
            low, high = max(piece.start, first), min(piece.start + piece.size, first + size)
            if low < high:
                at = piece.offset + low - piece.start
                yield FlatRange(start + low - first, high - low, piece.region, at)
    else:
        yield from _shown(start, size, region.target, region.offset + offset)


class PortSpace(AddressSpace):
    """I/O ports: the port space of an architecture, or what a PCI host shows of it in memory."""

    has_ports = True

    def __init__(self) -> None:
        super().__init__("port", PORTS)
