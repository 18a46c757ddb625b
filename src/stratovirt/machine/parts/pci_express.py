"""PCI Express: the host bridge with ECAM, root ports, the devices on their buses, and hotplug."""

from __future__ import annotations

from stratovirt.acpi import aml, tables
from stratovirt.acpi.pci import host_bridge
from stratovirt.config.buses import PCI
from stratovirt.machine.part import Part
from stratovirt.machine.pci_devices import PciDevices
from stratovirt.memory.address_space import PORTS, IoRegion, PortSpace
from stratovirt.pci.bus import PINS, devfn_of
from stratovirt.pci.host_bridge import Ecam, PciHost

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stratovirt.boot.device_tree import DeviceTree, Node
    from stratovirt.machine.part import BoardContext
    from stratovirt.machine.pci_hotplug import PciHotPlug
    from stratovirt.memory.address_space import AddressSpace
    from stratovirt.snapshot.state import Entry
    from stratovirt.virtio.device import VirtioDevice

BUS_BYTES = 1 << 20
"""Bytes of ECAM for each bus."""
SPACE_PORTS, SPACE_32, SPACE_64 = 0x0100_0000, 0x0200_0000, 0x0300_0000
"""Address spaces of PCI in a device tree (IEEE 1275 PCI bus binding, section 2.2.1.1)."""
SLOT_SHIFT = 11
"""Place of the slot in the first cell of a unit address."""


class PciMap:
    """Where a host bridge's memory is.

    `ecam` is (base, size); `low` and `high` are the first and last addresses of the memory for
    BARs, below 4 GiB and for 64-bit BARs.
    """

    __slots__ = ("ecam", "high", "low")

    def __init__(
        self, ecam: tuple[int, int], low: list[tuple[int, int]], high: tuple[int, int]
    ) -> None:
        self.ecam, self.low, self.high = ecam, low, high

    @property
    def last_bus(self) -> int:
        """The last bus that ECAM reaches."""
        return self.ecam[1] // BUS_BYTES - 1


class PciExpress(Part):
    """The host bridge, without devices until `fill`; INTx has four lines from `first_line` on.

    `ports` is the board's port space, and `port_resources` are its ranges for PCI as resource
    descriptors.  A board without one gives a `port_window` instead, the memory address at which
    the bridge's ports are reached.  `map_now` tells where its memory is when tables are made.
    """

    def __init__(
        self,
        context: BoardContext,
        memory: AddressSpace,
        first_line: int,
        map_now: Callable[[], PciMap],
        *,
        ports: AddressSpace | None = None,
        port_resources: tuple[bytes, ...] = (),
        port_window: int | None = None,
    ) -> None:
        super().__init__()
        self._context, self._map_now = context, map_now
        self._port_resources, self._port_window = port_resources, port_window
        self.host = PciHost(
            memory,
            ports if ports is not None else PortSpace(),
            first_line,
            context.accelerator.set_irq_level,
        )
        if port_window is not None:
            self.host.show_ports(port_window)
            self._port_resources = (aml.port_window(port_window, PORTS),)
        self.occupants = PciDevices(self.host, context.host, context.accelerator)
        self.hot_plug: PciHotPlug | None = None
        context.closing.callback(self._close_hot_plug)
        context.closing.callback(self.occupants.close)

    def map_ecam(self) -> None:
        """Map ECAM for good, on a board without registers that place it."""
        base, size = self._map_now().ecam
        self.host.memory.add(base, IoRegion("ecam", size, Ecam(self.host)))

    def _close_hot_plug(self) -> None:
        if self.hot_plug is not None:
            self.hot_plug.close()

    @property
    def devices(self) -> list[VirtioDevice]:
        """The virtio devices on the buses."""
        return self.occupants.virtio_devices

    def fill(self, board: object) -> None:
        """Create the devices of the command line; drivers of other buses get the `board`.

        Raises StratovirtError.
        """
        config, occupants = self._context.config, self.occupants
        # Root ports first: a device may name a bus that is defined after it on the command line.
        for options in sorted(config.devices, key=lambda o: o.driver.provides != PCI):
            if options.driver.bus == PCI:
                occupants.add(options)
            else:
                options.driver.make(options, board)
        occupants.check_slots(config.devices)
        for port in self.host.root_ports:
            port.reset()
        if config.monitors:
            from stratovirt.machine.pci_hotplug import PciHotPlug

            self.hot_plug = PciHotPlug(
                self._context.host, self._context.inventory, self.host, occupants
            )

    def number_buses(self) -> None:
        """Assign bus numbers to the root ports, in place of firmware."""
        for number, port in enumerate(self.host.root_ports, start=1):
            port.set_numbers(number)

    def reset(self) -> None:
        """Reset all functions of all buses."""
        self.host.reset()

    def states(self) -> Iterator[Entry]:
        """The devices on the buses."""
        return self.occupants.states()

    def aml(self) -> list[aml.Term]:
        """The host bridge, with the parts behind it."""
        places = self._map_now()
        return [
            host_bridge(
                ecam=places.ecam,
                ports=self._port_resources,
                windows=places.low,
                high_window=places.high,
                first_gsi=self.host.first_gsi,
                children=self.aml_of_children(),
            )
        ]

    def tables(self) -> list[bytes]:
        """The MCFG."""
        places = self._map_now()
        return [tables.mcfg(places.ecam[0], places.last_bus)]

    def device_tree(self, tree: DeviceTree) -> None:
        """The bridge: its windows, and the lines of its interrupt pins."""
        from stratovirt.boot.device_tree import pair

        places = self._map_now()
        node = tree.add_device("pcie", *places.ecam, "pci-host-ecam-generic")
        node.set("device_type", "pci")
        node.set("#address-cells", 3)
        node.set("#size-cells", 2)
        node.set("bus-range", 0, places.last_bus)
        node.set("linux,pci-domain", 0)
        node.set("dma-coherent")
        windows = [(SPACE_32, first, first, last - first + 1) for first, last in places.low]
        first, last = places.high
        windows.append((SPACE_64, first, first, last - first + 1))
        if self._port_window is not None:
            windows.insert(0, (SPACE_PORTS, 0, self._port_window, PORTS))
        node.set(
            "ranges",
            *(
                cell
                for space, child, parent, size in windows
                for cell in (space, *pair(child), *pair(parent), *pair(size))
            ),
        )
        self._add_interrupt_map(tree, node)

    def _add_interrupt_map(self, tree: DeviceTree, node: Node) -> None:
        """Rows of (slot and function, pin) and the line that the pin reaches."""
        node.set("#interrupt-cells", 1)
        node.set("interrupt-map-mask", (PINS - 1) << SLOT_SHIFT, 0, 0, 7)
        node.set(
            "interrupt-map",
            *(
                cell
                for slot in range(PINS)
                for pin in range(1, PINS + 1)
                for cell in (
                    *(slot << SLOT_SHIFT, 0, 0, pin),
                    *tree.interrupt_of_map(self.host.root.gsi(devfn_of((slot, 0)), pin)),
                )
            ),
        )
