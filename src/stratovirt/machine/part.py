"""The contract of a board's part, and what boards and parts are built with."""

from __future__ import annotations

from stratovirt.acpi import aml
from stratovirt.memory.address_space import IoRegion

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import ExitStack
    from typing import Protocol

    from stratovirt.accel.base import Accelerator
    from stratovirt.acpi.aml import Term
    from stratovirt.boot.device_tree import DeviceTree
    from stratovirt.chardev.backend import Chardev
    from stratovirt.config.vm_config import VmConfig
    from stratovirt.cpu.slots import CpuSlots
    from stratovirt.devices.device_host import DeviceHost
    from stratovirt.machine.inventory import Inventory
    from stratovirt.memory.address_space import AddressSpace, Handler
    from stratovirt.memory.ram import RamTemplate
    from stratovirt.snapshot.state import Entry

    class BoardTemplate(RamTemplate, Protocol):
        """A snapshot that a board starts from: see snapshot.restore.Template."""

        def has(self, path: str) -> bool:
            """Whether the snapshot's machine has a part at this path of its tree of states."""


class BoardContext:
    """What a board is built with: configuration, inventory, accelerator, and what is around it.

    `closing` takes the close of each part where the part is made, and runs them in reverse order.
    `guest_reset` and `guest_power_off` are called when the guest does either.  With a `template`
    RAM has the content of a snapshot.
    """

    def __init__(
        self,
        *,
        config: VmConfig,
        inventory: Inventory,
        cpus: CpuSlots,
        accelerator: Accelerator,
        host: DeviceHost,
        closing: ExitStack,
        serial: Chardev | None,
        guest_reset: Callable[[], None],
        guest_power_off: Callable[[], None],
        template: BoardTemplate | None = None,
    ) -> None:
        self.config, self.inventory = config, inventory
        self.cpus, self.accelerator, self.host = cpus, accelerator, host
        self.closing, self.serial, self.template = closing, serial, template
        self.guest_reset, self.guest_power_off = guest_reset, guest_power_off

    def line(self, number: int) -> Line:
        """The interrupt line (GSI) of this number."""
        return Line(number, self.accelerator.set_irq_level)


class Line:
    """An interrupt line of a board: calling it sets its level, tables have its number."""

    __slots__ = ("_set_irq_level", "number")

    def __init__(self, number: int, set_irq_level: Callable[[int, bool], None]) -> None:
        self.number = number
        self._set_irq_level = set_irq_level

    def __call__(self, level: bool) -> None:
        """Set the level."""
        self._set_irq_level(self.number, level)


class Part:
    """A part of a board; what a part lacks is empty here.

    A part maps its regions when it is made, at the addresses and with the lines that it is given,
    and registers what must be closed in the context's `closing`.
    """

    late_modules: tuple[str, ...] = ()
    """Modules that it imports while the machine runs; a locked-down one loads them before."""

    def __init__(self) -> None:
        self.children: list[Part] = []
        """Parts whose AML is within this part's."""

    def reset(self) -> None:
        """Reset to power-on state; vCPUs are paused."""

    def states(self) -> Iterable[Entry]:
        """Its states with their paths in the tree of states, in the order of their restore."""
        return ()

    def restored(self) -> None:
        """Tell the guest that it is a clone, once the states of all parts are restored."""

    def aml(self) -> list[Term]:
        """Its devices in the namespace of ACPI (DSDT)."""
        return []

    def aml_of_children(self) -> list[Term]:
        """The devices of the parts within this one."""
        return [term for child in self.children for term in child.aml()]

    def tables(self) -> list[bytes]:
        """Its ACPI tables beside the DSDT."""
        return []

    def device_tree(self, tree: DeviceTree) -> None:
        """Add its nodes to the tree, for guests without ACPI."""


class Registers(Part):
    """A part that is nothing but the registers of `handler`, which have no state."""

    def __init__(
        self, name: str, space: AddressSpace, base: int, size: int, handler: Handler
    ) -> None:
        super().__init__()
        space.add(base, IoRegion(name, size, handler))


def register_resource(space: AddressSpace, base: int, size: int) -> bytes:
    """The resource descriptor of registers, which are I/O ports or memory."""
    if space.has_ports:
        return aml.io_ports(base, size)
    return aml.memory32(base, size)
