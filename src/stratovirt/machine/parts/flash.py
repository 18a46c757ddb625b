"""Flash chips from -drive if=pflash: firmware and its variable store."""

from __future__ import annotations

from stratovirt.devices.pflash import Pflash, PflashError
from stratovirt.machine.part import Part
from stratovirt.snapshot.state import Entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from stratovirt.boot.device_tree import DeviceTree
    from stratovirt.config.drive import Pflash as PflashOptions
    from stratovirt.machine.part import BoardContext
    from stratovirt.memory.address_space import AddressSpace

BANK_WIDTH = 1
"""Bytes of the chip's data bus."""


class Flash(Part):
    """The chips, unit 0 at the top, which ends at `end`; `most` bytes together.

    Raises PflashError.
    """

    def __init__(self, context: BoardContext, space: AddressSpace, end: int, most: int) -> None:
        super().__init__()
        self.chips: dict[int, Pflash] = {}
        """By address."""
        for options in sorted(context.config.flashes, key=lambda flash: flash.unit):
            end = self._add(options, context, space, end, most)

    def _add(
        self,
        options: PflashOptions,
        context: BoardContext,
        space: AddressSpace,
        end: int,
        most: int,
    ) -> int:
        """Add a chip that ends at `end`; returns its address."""
        chip = Pflash(options)
        context.closing.callback(chip.close)
        if sum(other.size for other in self.chips.values()) + chip.size > most:
            raise PflashError(
                f"{chip.source}: flash memory is larger than {most >> 20} MiB with this file"
            )
        base = end - chip.size
        self.chips[base] = chip
        chip.place(space, base)
        return base

    def reset(self) -> None:
        """Map the arrays."""
        for chip in self.chips.values():
            chip.reset()

    def states(self) -> Iterator[Entry]:
        """The chips; what they hold is in their files."""
        for chip in self.chips.values():
            yield Entry(f"flash/{chip.unit}", chip, f"-drive if=pflash,unit={chip.unit}")

    def device_tree(self, tree: DeviceTree) -> None:
        """A node for each chip."""
        for base, chip in self.chips.items():
            node = tree.add_device("flash", base, chip.size, "cfi-flash")
            node.set("bank-width", BANK_WIDTH)
