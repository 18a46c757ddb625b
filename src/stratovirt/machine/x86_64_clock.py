"""The real-time clock, an MC146818."""

from __future__ import annotations

from stratovirt.acpi import aml
from stratovirt.devices.x86_64_rtc import PORTS, Rtc
from stratovirt.machine.part import Part
from stratovirt.memory.address_space import IoRegion
from stratovirt.snapshot.state import Entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from stratovirt.boot.device_tree import DeviceTree
    from stratovirt.machine.part import BoardContext, Line
    from stratovirt.memory.address_space import AddressSpace

DECODED = 8
"""Addresses that the chip of a PC answers; the guest may use PORTS of them."""


class Clock(Part):
    """The clock, whose memory tells firmware the sizes of `ram` and the number of vCPUs."""

    late_modules = ("calendar",)

    def __init__(
        self,
        context: BoardContext,
        space: AddressSpace,
        base: int,
        line: Line,
        ram: list[tuple[int, int]],
    ) -> None:
        super().__init__()
        self._space, self._base, self._line = space, base, line
        self.rtc = Rtc(context.accelerator.clock, context.host.loop, line, ram)
        self.rtc.set_last_cpu(len(context.cpus.present) - 1)
        space.add(base, IoRegion("rtc", PORTS, self.rtc))

    def reset(self) -> None:
        """Turn interrupts off; the time is kept."""
        self.rtc.reset()

    def states(self) -> Iterator[Entry]:
        """Time of day, interrupts and memory."""
        yield Entry("rtc", self.rtc)

    def aml(self) -> list[aml.Term]:
        """The clock of a PC; empty for a clock in memory, which ACPI does not know."""
        if not self._space.has_ports:
            return []
        resources = aml.resources(aml.io_ports(self._base, DECODED), aml.irq(self._line.number))
        return [
            aml.device(
                "RTC",
                aml.name("_HID", aml.Term(aml.encode(aml.eisa_id("PNP0B00")))),
                aml.name("_CRS", resources),
            )
        ]

    def device_tree(self, tree: DeviceTree) -> None:
        """The clock."""
        node = tree.add_device("rtc", self._base, PORTS, "motorola,mc146818")
        node.set("interrupts", *tree.interrupt(self._line.number, level=True))
