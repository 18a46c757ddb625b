"""The chipset of q35: configuration ports, MCH, which places ECAM, and LPC with its ACPI block."""

from __future__ import annotations

from stratovirt.acpi import aml
from stratovirt.devices.x86_64_ich9 import LpcBridge, Mch, PowerManagement
from stratovirt.machine.part import Part
from stratovirt.memory.address_space import IoRegion
from stratovirt.pci.host_bridge import Ecam
from stratovirt.pci.x86_64_config_ports import PORTS, ConfigPorts
from stratovirt.snapshot.state import Entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from stratovirt.machine.part import BoardContext, Line
    from stratovirt.memory.address_space import AddressSpace
    from stratovirt.pci.host_bridge import PciHost

HOST_BRIDGE_PLACE = (0x00, 0)
LPC_PLACE = (0x1F, 0)


class ConfigRegisters(Part):
    """The ports of PCI configuration space, and the reset control register among them."""

    def __init__(self, context: BoardContext, pci: PciHost, ports: AddressSpace, base: int) -> None:
        super().__init__()
        self._registers = ConfigPorts(pci, context.guest_reset)
        ports.add(base, IoRegion("pci-config", PORTS, self._registers))

    def reset(self) -> None:
        """Set the registers to power-on state."""
        self._registers.power_on()

    def states(self) -> Iterator[Entry]:
        """The selected register."""
        yield Entry("pci/root", self._registers)


class Chipset(Part):
    """MCH and LPC bridge on the root bus, which resets them; `sci` is the line of ACPI's events."""

    def __init__(self, context: BoardContext, pci: PciHost, ports: AddressSpace, sci: Line) -> None:
        super().__init__()
        self.mch = Mch(pci.memory, Ecam(pci))
        self.power = PowerManagement(context.accelerator.clock, sci, context.guest_power_off)
        self._lpc = LpcBridge(ports, self.power)
        pci.root.attach(self.mch, HOST_BRIDGE_PLACE)
        pci.root.attach(self._lpc, LPC_PLACE)

    def place(self, ecam: int, block: int) -> None:
        """Place ECAM and the ACPI block, in place of firmware."""
        self.mch.set_ecam(ecam)
        self._lpc.set_block(block)

    def reset(self) -> None:
        """Reset power management; the bus resets both functions."""
        self.power.reset()

    def states(self) -> Iterator[Entry]:
        """Both functions and power management."""
        yield Entry("chipset/mch", self.mch)
        yield Entry("chipset/lpc", self._lpc)
        yield Entry("chipset/pm", self.power)

    def aml(self) -> list[aml.Term]:
        """The ISA bridge, with the parts behind it."""
        address = LPC_PLACE[0] << 16 | LPC_PLACE[1]
        return [aml.device("ISA", aml.name("_ADR", address), *self.aml_of_children())]
