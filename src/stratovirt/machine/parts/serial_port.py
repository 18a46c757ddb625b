"""A 16550A serial port whose other end is a chardev."""

from __future__ import annotations

from stratovirt.acpi import aml
from stratovirt.devices.uart16550 import REGISTERS, Uart16550
from stratovirt.machine.part import Part, register_resource
from stratovirt.memory.address_space import IoRegion
from stratovirt.snapshot.state import Entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from stratovirt.boot.device_tree import DeviceTree
    from stratovirt.chardev.backend import Chardev
    from stratovirt.machine.part import Line
    from stratovirt.memory.address_space import AddressSpace

CLOCK_HZ = 1_843_200
"""The clock whose sixteenth a divisor of 12 makes 9600 baud."""


class SerialPort(Part):
    """The first serial port, in I/O ports or in memory."""

    def __init__(self, chardev: Chardev, space: AddressSpace, base: int, line: Line) -> None:
        super().__init__()
        self._space, self._base, self._line = space, base, line
        self.uart = Uart16550(chardev, line)
        space.add(base, IoRegion("uart", REGISTERS, self.uart))

    def reset(self) -> None:
        """Reset the registers."""
        self.uart.reset()

    def states(self) -> Iterator[Entry]:
        """The registers and what the guest has not read."""
        yield Entry("serial", self.uart, "-serial")

    def aml(self) -> list[aml.Term]:
        """The port as a PC's COM1."""
        registers = register_resource(self._space, self._base, REGISTERS)
        return [
            aml.device(
                "COM1",
                aml.name("_HID", aml.Term(aml.encode(aml.eisa_id("PNP0501")))),
                aml.name("_UID", 0),
                aml.name("_STA", 0xF),
                aml.name("_CRS", aml.resources(registers, aml.interrupt(self._line.number))),
            )
        ]

    def device_tree(self, tree: DeviceTree) -> None:
        """The port, which is also where the kernel's messages go."""
        node = tree.add_device("serial", self._base, REGISTERS, "ns16550a")
        node.set("interrupts", *tree.interrupt(self._line.number, level=True))
        node.set("clock-frequency", CLOCK_HZ)
        tree.chosen.set("stdout-path", node.path)
