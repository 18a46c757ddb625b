"""Listeners that keep the native dispatcher's tables equal to the address spaces."""

from __future__ import annotations

from stratovirt._native.dispatch import Dispatcher
from stratovirt.memory.address_space import (
    AddressSpace,
    FlatRange,
    IoRegion,
    NativeRegion,
    RomRegion,
)


class DispatchListener:
    """Publishes one address space's registers to the vCPUs' dispatcher.

    RAM is left out: vCPUs reach it without an exit.
    """

    def __init__(self, dispatcher: Dispatcher, *, port_space: bool) -> None:
        self._dispatcher = dispatcher
        self._port_space = port_space

    def changed(
        self, _removed: list[FlatRange], _added: list[FlatRange], view: list[FlatRange]
    ) -> None:
        """Publish a new table for this address space."""
        entries: list[tuple[int, int, int, object]] = []
        for piece in view:
            region = piece.region
            if isinstance(region, IoRegion | RomRegion):
                entries.append((piece.start, piece.size, piece.offset, region.handler))
            elif isinstance(region, NativeRegion):
                entries.append((piece.start, piece.size, piece.offset, region.ops))
        self._dispatcher.publish(self._port_space, entries)


def connect(dispatcher: Dispatcher, memory: AddressSpace, ports: AddressSpace | None) -> None:
    """Route both spaces of a machine through `dispatcher`."""
    memory.listen(DispatchListener(dispatcher, port_space=False))
    if ports is not None:
        ports.listen(DispatchListener(dispatcher, port_space=True))
