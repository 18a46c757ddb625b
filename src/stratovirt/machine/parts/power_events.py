"""Events that the machine has for its guest: the power button, and a new generation as a clone."""

from __future__ import annotations

import os

from stratovirt.acpi import aml, vmgenid
from stratovirt.devices.ged import NEW_GENERATION, POWER_BUTTON, REGISTERS, GenericEventDevice
from stratovirt.machine.part import Part
from stratovirt.memory.address_space import IoRegion
from stratovirt.snapshot.state import Entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from stratovirt._native.guest_memory import GuestMemory
    from stratovirt.machine.part import Line
    from stratovirt.memory.address_space import AddressSpace

NOTIFY_BUTTON_PRESSED = 0x80
"""Notification code of a control-method power button (ACPI 6.5, table 5.136)."""


class PowerEvents(Part):
    """A Generic Event Device at `base` and the VM generation ID, in RAM at `generation_id`."""

    def __init__(
        self,
        memory: GuestMemory,
        space: AddressSpace,
        base: int,
        line: Line,
        *,
        generation_id: int,
    ) -> None:
        super().__init__()
        self._memory, self._base, self._line = memory, base, line
        self._address = generation_id
        self._generation_id = os.urandom(vmgenid.BYTES)
        self.ged = GenericEventDevice(line)
        space.add(base, IoRegion("ged", REGISTERS, self.ged))

    def reset(self) -> None:
        """Nothing is pending after power-on."""
        self.ged.reset()

    def press_power_button(self) -> None:
        """Signal a power-off request to the guest."""
        self.ged.raise_event(POWER_BUTTON)

    def write_generation(self) -> None:
        """Write this machine's generation ID."""
        self._memory.write(self._address, self._generation_id)

    def states(self) -> Iterator[Entry]:
        """The pending events."""
        yield Entry("ged", self.ged)

    def restored(self) -> None:
        """Write this machine's generation ID and tell the guest, which is a clone."""
        self.write_generation()
        self.ged.raise_event(NEW_GENERATION)

    def aml(self) -> list[aml.Term]:
        """The generation ID, the power button, and the device that reports both."""
        event = aml.method(
            "_EVT",
            1,
            aml.store("ESEL", aml.LOCAL0),
            aml.if_bits(aml.LOCAL0, POWER_BUTTON, aml.notify("PWRB", NOTIFY_BUTTON_PRESSED)),
            aml.if_bits(
                aml.LOCAL0, NEW_GENERATION, aml.notify(vmgenid.NAME, vmgenid.NOTIFY_CHANGED)
            ),
        )
        return [
            vmgenid.device(self._address),
            aml.device(
                "PWRB",
                aml.name("_HID", aml.Term(aml.encode(aml.eisa_id("PNP0C0C")))),
                aml.name("_UID", 0),
            ),
            aml.device(
                "GED",
                aml.name("_HID", "ACPI0013"),
                aml.name("_UID", 0),
                aml.name("_CRS", aml.resources(aml.interrupt(self._line.number))),
                aml.operation_region("EREG", self._base, REGISTERS),
                aml.field("EREG", "ESEL"),
                event,
            ),
        ]
