"""The root of the PCI hierarchy: configuration cycles, INTx lines, and ECAM."""

from __future__ import annotations

from stratovirt.memory.address_space import AliasRegion
from stratovirt.pci.bus import PINS, PciBus
from stratovirt.pci.function import BAR_PRIORITY
from stratovirt.snapshot.state import Stateless

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stratovirt.memory.address_space import AddressSpace
    from stratovirt.pci.contracts import Occupant
    from stratovirt.pci.function import PciFunction
    from stratovirt.pci.root_port import RootPort


class InterruptLine:
    """One level-triggered line that several functions share: up while any of them holds it."""

    def __init__(self, set_level: Callable[[bool], None]) -> None:
        self._set_level = set_level
        self._holders: set[object] = set()

    def set(self, holder: object, level: bool) -> None:
        """Raise or lower the line on behalf of `holder`."""
        before = bool(self._holders)
        if level:
            self._holders.add(holder)
        else:
            self._holders.discard(holder)
        if bool(self._holders) != before:
            self._set_level(not before)


class PciHost:
    """The root of the PCI hierarchy; `first_gsi` is the first of the four GSIs of INTx.

    I/O BARs are in `ports`: the port space of the board, or one of the bridge's own.
    """

    def __init__(
        self,
        memory: AddressSpace,
        ports: AddressSpace,
        first_gsi: int,
        set_irq_level: Callable[[int, bool], None],
    ) -> None:
        self.memory, self.ports = memory, ports
        self.root = PciBus("pcie.0", self)
        self.root_ports: list[RootPort] = []
        self.first_gsi = first_gsi
        self._lines = [
            InterruptLine(lambda level, gsi=first_gsi + pin: set_irq_level(gsi, level))  # type: ignore[misc]
            for pin in range(PINS)
        ]
        self._priority = BAR_PRIORITY

    def show_ports(self, base: int) -> None:
        """Map the port space in memory at `base`, for processors that have none."""
        self.memory.add(base, AliasRegion("pci-ports", self.ports.limit, self.ports))

    def next_priority(self) -> int:
        """A new lowest priority: of overlapping regions the one placed first answers."""
        self._priority -= 1
        return self._priority

    def set_intx(self, function: Occupant, pin: int, level: bool) -> None:
        """Drive an interrupt pin of a function."""
        assert function.bus is not None
        gsi = function.bus.gsi(function.devfn, pin)
        self._lines[gsi - self.first_gsi].set(function, level)

    def buses(self) -> list[PciBus]:
        """The root bus and the buses behind its root ports."""
        return [self.root, *(port.secondary for port in self.root_ports)]

    def find(self, bus_number: int, devfn: int) -> PciFunction | None:
        """The function that answers a configuration cycle, or None."""
        if bus_number == 0:
            return self.root.functions.get(devfn)
        for port in self.root_ports:
            if port.secondary.number == bus_number:
                return port.secondary.functions.get(devfn)
        return None

    def read_config(self, bus_number: int, devfn: int, offset: int, size: int) -> int:
        """A configuration read; all ones where no function is."""
        function = self.find(bus_number, devfn)
        if function is None or offset % 4 + size > 4:
            return (1 << 8 * size) - 1
        try:
            return function.read_config(offset, size)
        except Exception as error:
            function.failed(error)
            return (1 << 8 * size) - 1

    def write_config(self, bus_number: int, devfn: int, offset: int, size: int, value: int) -> None:
        """A configuration write; ignored where no function is."""
        function = self.find(bus_number, devfn)
        if function is not None and offset % 4 + size <= 4:
            try:
                function.write_config(offset, size, value)
            except Exception as error:
                function.failed(error)

    def reset(self) -> None:
        """Reset all functions of all buses to power-on state."""
        for bus in reversed(self.buses()):
            bus.reset()


class Ecam(Stateless):
    """Configuration space as memory (PCI Express Base 4.0, section 7.2.2): 1 MiB for each bus."""

    def __init__(self, host: PciHost) -> None:
        self._host = host

    def read(self, offset: int, size: int) -> int:
        """A register of any function; at most 32 bits at a time."""
        return self._host.read_config(offset >> 20, offset >> 12 & 0xFF, offset & 0xFFF, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """A register of any function; at most 32 bits at a time."""
        self._host.write_config(offset >> 20, offset >> 12 & 0xFF, offset & 0xFFF, size, value)
