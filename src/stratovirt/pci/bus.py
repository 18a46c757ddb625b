"""A PCI bus: its functions by slot, and the routing of their interrupt pins."""

from __future__ import annotations

from stratovirt.errors import StratovirtError
from stratovirt.pci import config_space as regs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.pci.contracts import Host
    from stratovirt.pci.function import PciFunction

SLOTS = 32
FUNCTIONS = 8
PINS = 4


class PlaceError(StratovirtError):
    """A function cannot be attached at the requested slot and function number."""


def devfn_of(place: tuple[int, int]) -> int:
    """Slot and function as the devfn number of a configuration cycle."""
    return place[0] << 3 | place[1]


class PciBus:
    """One bus: pcie.0, or the one behind a root port, which has slot 0 only."""

    def __init__(self, name: str, host: Host, *, slots: int = SLOTS) -> None:
        self.name = name
        self.host = host
        self.slots = slots
        self.functions: dict[int, PciFunction] = {}

    @property
    def number(self) -> int:
        """The bus number in configuration cycles; the root bus has 0."""
        return 0

    def check_place(self, place: tuple[int, int], *, multifunction: bool) -> None:
        """Raise PlaceError when nothing can be attached there."""
        slot, function = place
        where = f"{slot:#x}.{function:#x}"
        if slot >= self.slots:
            raise PlaceError(f"addr={where}: behind a root port only slot 0 exists")
        taken = self.functions.get(devfn_of(place))
        if taken is not None:
            raise PlaceError(f"addr={where}: {taken.name} is there already")
        first = self.functions.get(devfn_of((slot, 0)))
        if function and first is not None and not self._is_multifunction(first):
            raise PlaceError(f"addr={where}: {first.name} in this slot is not multifunction=on")
        others = any(devfn_of((slot, other)) in self.functions for other in range(1, FUNCTIONS))
        if not function and others and not multifunction:
            raise PlaceError(f"addr={where}: the slot has more functions; give multifunction=on")

    def _is_multifunction(self, function: PciFunction) -> bool:
        return bool(function.config.get(regs.HEADER_TYPE, 1) & regs.MULTIFUNCTION)

    def attach(
        self, function: PciFunction, place: tuple[int, int], *, multifunction: bool = False
    ) -> None:
        """Attach a function to the bus; raises PlaceError."""
        self.check_place(place, multifunction=multifunction)
        if multifunction:
            function.config.change(regs.HEADER_TYPE, 1, 0, regs.MULTIFUNCTION)
            function.config.keep()
        function.bus, function.devfn = self, devfn_of(place)
        self.functions[function.devfn] = function

    def detach(self, devfn: int) -> None:
        """Detach a function from the bus and unmap its BARs."""
        function = self.functions.pop(devfn)
        function.remove_bars()
        function.bus = None

    def gsi(self, devfn: int, pin: int) -> int:
        """The GSI that interrupt pin `pin` (1 is INTA) of a function reaches."""
        return self.host.first_gsi + ((devfn >> 3) + pin - 1) % PINS

    def renumbered(self) -> None:
        """Tell the functions that `number` is another one."""
        for function in self.functions.values():
            function.bus_renumbered()

    def reset(self) -> None:
        """Reset all functions to power-on state."""
        for function in self.functions.values():
            function.reset()
