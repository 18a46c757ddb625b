"""A PCI function: configuration space, and BARs mapped at the addresses the guest sets."""

from __future__ import annotations

from stratovirt.config.keyval import shown
from stratovirt.memory.address_space import PORTS, AddressSpace, Region
from stratovirt.pci import config_space as regs
from stratovirt.pci.config_space import ConfigSpace
from stratovirt.pci.state import FunctionState
from stratovirt.runtime.faults import report_bug
from stratovirt.runtime.log import Log
from stratovirt.snapshot.errors import SnapshotError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from stratovirt.pci.contracts import Bus, MessageTable

log = Log(__name__)

BAR_64, BAR_PREFETCHABLE, BAR_IO = 4, 8, 1
ROM_ENABLE = 1
ROM_INDEX = 6
"""The expansion ROM's number in the table of BARs."""
BAR_PRIORITY = -1000
"""Below RAM and the board's own registers, which answer where a BAR overlaps them."""


class Bar:
    """A range of `size` bytes, a power of two, that the guest places; `regions` by offset."""

    __slots__ = ("base", "flags", "index", "moved", "regions", "size")

    def __init__(
        self,
        index: int,
        size: int,
        flags: int,
        regions: list[tuple[int, Region]],
        moved: Callable[[int | None], None],
    ) -> None:
        self.index, self.size, self.flags, self.regions = index, size, flags, regions
        self.moved = moved
        self.base: int | None = None
        """The address where it is mapped now; None while it is not mapped."""


class PciFunction:
    """One function. Subclasses add BARs and capabilities, then call `config.keep()`."""

    bars_count = 6
    state_type: type[FunctionState] = FunctionState

    def __init__(
        self,
        name: str,
        *,
        vendor: int,
        device: int,
        class_code: int,
        revision: int = 0,
        subsystem: tuple[int, int] = (0, 0),
    ) -> None:
        self.name = name
        self.config = ConfigSpace()
        self.bars: dict[int, Bar] = {}
        self.msix: MessageTable | None = None
        self.bus: Bus | None = None
        self.devfn = 0
        self.failed: Callable[[Exception], None] = report_bug
        """Called with an exception raised by an access to the function."""
        config = self.config
        config.set(regs.VENDOR_ID, 2, vendor)
        config.set(regs.DEVICE_ID, 2, device)
        config.set(regs.REVISION, 1, revision)
        config.set(regs.CLASS_CODE, 3, class_code)
        config.set(regs.SUBSYSTEM_VENDOR, 2, subsystem[0])
        config.set(regs.SUBSYSTEM, 2, subsystem[1])
        config.allow(regs.COMMAND, 2, regs.COMMAND_WRITABLE)
        config.allow_clearing(regs.STATUS, 2, regs.STATUS_WRITE_ONE_TO_CLEAR)
        config.allow_device(regs.STATUS, 2, regs.STATUS_INTX)
        config.allow(regs.CACHE_LINE, 1, 0xFF)
        config.allow(regs.INTERRUPT_LINE, 1, 0xFF)

    @property
    def address(self) -> str:
        """Bus, slot and function in the usual spelling."""
        bus = self.bus.number if self.bus is not None else 0
        return f"{bus:02x}:{self.devfn >> 3:02x}.{self.devfn & 7}"

    @property
    def requester(self) -> int:
        """The id of its requests and messages: bus, device and function (section 2.2.6.2)."""
        bus = self.bus.number if self.bus is not None else 0
        return bus << 8 | self.devfn

    def bus_renumbered(self) -> None:
        """The bus has another number, which messages carry from now on."""
        if self.msix is not None:
            self.msix.requester_changed()

    def add_bar(
        self,
        index: int,
        size: int,
        regions: list[tuple[int, Region]],
        *,
        flags: int = 0,
        moved: Callable[[int | None], None] = lambda _base: None,
    ) -> Bar:
        """A BAR (section 7.5.1.2.1); a 64-bit one takes the next register as well.

        `moved` is called after each change with the BAR's address, None when it is unmapped.
        """
        if size & size - 1 or size < 4:
            raise ValueError("the size of a BAR is a power of two")
        bar = self.bars[index] = Bar(index, size, flags, regions, moved)
        offset = self._offset(bar)
        width = 8 if flags & BAR_64 else 4
        attributes = 3 if flags & BAR_IO else (ROM_ENABLE if index == ROM_INDEX else 15)
        writable = -size & (1 << 8 * width) - 1 & ~attributes
        if index == ROM_INDEX:
            # The lowest eleven bits but the enable are reserved.
            writable = writable & ~0x7FF | ROM_ENABLE
        self.config.set(offset, width, 0 if index == ROM_INDEX else flags)
        self.config.allow(offset, width, writable)
        return bar

    def _offset(self, bar: Bar) -> int:
        return regs.ROM if bar.index == ROM_INDEX else regs.BAR0 + 4 * bar.index

    def read_config(self, offset: int, size: int) -> int:
        """The guest reads 1, 2 or 4 bytes within a double word."""
        return self.config.read(offset, size)

    def write_config(self, offset: int, size: int, value: int) -> None:
        """The guest writes 1, 2 or 4 bytes within a double word."""
        self.config.write(offset, value.to_bytes(size, "little"))
        if offset < regs.INTERRUPT_LINE:
            self.place_bars()
        elif self.msix is not None:
            self.msix.config_written()

    def place_bars(self) -> None:
        """Map and unmap regions as the BARs and the command register now say."""
        changed = [bar for bar in self.bars.values() if self._wanted(bar) != bar.base]
        if not changed or self.bus is None:
            return
        for bar in changed:
            self._take_out(bar)
        for bar in changed:
            self._put_in(bar)
        for is_port in {bool(bar.flags & BAR_IO) for bar in changed}:
            self._space(is_port).commit()
        for bar in changed:
            bar.moved(bar.base)

    def remove_bars(self) -> None:
        """Unmap all BARs, before the function is detached."""
        for bar in self.bars.values():
            if bar.base is not None:
                self._take_out(bar)
                self._space(bool(bar.flags & BAR_IO)).commit()
                bar.moved(None)

    def _space(self, is_port: bool) -> AddressSpace:
        assert self.bus is not None
        return self.bus.host.ports if is_port else self.bus.host.memory

    def _wanted(self, bar: Bar) -> int | None:
        command = self.config.get(regs.COMMAND, 2)
        is_port = bool(bar.flags & BAR_IO)
        if not command & (regs.COMMAND_IO if is_port else regs.COMMAND_MEMORY):
            return None
        value = self.config.get(self._offset(bar), 8 if bar.flags & BAR_64 else 4)
        if bar.index == ROM_INDEX and not value & ROM_ENABLE:
            return None
        base = value & -bar.size
        # A BAR of zero has no address yet; one beyond the bus is being sized.
        if base == 0 or base + bar.size > (PORTS if is_port else self.bus_limit(bar)):
            return None
        return base

    def bus_limit(self, bar: Bar) -> int:
        """The first address that a memory BAR cannot cover."""
        if not bar.flags & BAR_64:
            # The top address is excluded: an all-ones probe of the size would map there.
            return (1 << 32) - 1
        assert self.bus is not None
        return self.bus.host.memory.limit

    def _take_out(self, bar: Bar) -> None:
        if bar.base is None:
            return
        for _, region in bar.regions:
            self._space(bool(bar.flags & BAR_IO)).remove(region)
        bar.base = None

    def _put_in(self, bar: Bar) -> None:
        bar.base = self._wanted(bar)
        if bar.base is None:
            return
        assert self.bus is not None
        for offset, region in bar.regions:
            space = self._space(bool(bar.flags & BAR_IO))
            space.add(bar.base + offset, region, priority=self.bus.host.next_priority())

    @property
    def is_bus_master(self) -> bool:
        """Whether the guest allows the function DMA and MSI messages."""
        return bool(self.config.get(regs.COMMAND, 2) & regs.COMMAND_MASTER)

    @property
    def obstacle(self) -> str | None:
        """Why the function cannot be part of a snapshot; None when it can."""
        return None

    def save(self) -> FunctionState:
        """The function's state while the machine is paused; raises SnapshotError."""
        return self.state_type(**self._saved())

    def _saved(self) -> dict[str, Any]:
        if self.obstacle is not None:
            raise SnapshotError(f"{self.name}: {self.obstacle}")
        assert self.bus is not None
        return {
            "bus": self.bus.name,
            "devfn": self.devfn,
            "config": self.config.content,
            "messages": self.msix.save() if self.msix is not None else [],
        }

    def restore(self, state: Any) -> None:
        """Restore configuration space, which places the BARs, and messages.

        Raises SnapshotError for the state of a function in another place or with other features.
        """
        if self.obstacle is not None:
            raise SnapshotError(f"{self.name}: {self.obstacle}, nor restored")
        assert self.bus is not None
        if (state.bus, state.devfn) != (self.bus.name, self.devfn):
            raise SnapshotError(
                f"{self.name}: it is on {self.bus.name} at {_place(self.devfn)} and the snapshot's "
                f"was on {shown(state.bus)} at {_place(state.devfn)}"
            )
        if self.msix is not None:
            self.msix.check(state.messages)
        at = self.config.differs_at(state.config)
        if at is not None:
            raise SnapshotError(
                f"{self.name}: it differs from the snapshot's in configuration space at 0x{at:x}"
            )
        self.config.load(state.config)
        self.place_bars()
        if self.msix is not None:
            self.msix.restore(state.messages)

    def reset(self) -> None:
        """Reset to power-on state: BARs are unmapped, nothing is enabled."""
        self.config.reset()
        self.place_bars()
        if self.msix is not None:
            self.msix.reset()

    def close(self) -> None:
        """Release the function's host resources."""


def _place(devfn: int) -> str:
    return f"{devfn >> 3:#x}.{devfn & 7}"
