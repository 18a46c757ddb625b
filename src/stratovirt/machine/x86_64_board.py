"""What x86_64's boards have in common: I/O ports, serial port, processors, ACPI tables."""

from __future__ import annotations

from stratovirt.acpi import tables
from stratovirt.acpi.x86_64_processors import madt
from stratovirt.devices.x86_64_i8042 import PORTS as KEYBOARD_PORTS
from stratovirt.devices.x86_64_i8042 import ResetController
from stratovirt.machine.board import Board
from stratovirt.machine.part import BoardContext, Part, Registers
from stratovirt.memory.address_space import PortSpace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stratovirt.cpu.slots import CpuSlots
    from stratovirt.machine.parts.serial_port import SerialPort

KEYBOARD_PORT, RESET_PORT = 0x60, 0x64
UART_PORT, UART_GSI = 0x3F8, 4


class Processors(Part):
    """The processors and their interrupt controllers, which the accelerator has."""

    def __init__(
        self,
        cpus: CpuSlots,
        lapic: int,
        ioapic: int,
        *,
        level_irqs: tuple[int, ...] = (),
        has_pic: bool = False,
    ) -> None:
        super().__init__()
        self._cpus, self._lapic, self._ioapic = cpus, lapic, ioapic
        self._level_irqs, self._has_pic = level_irqs, has_pic

    @property
    def ioapic_id(self) -> int:
        """An APIC id that no vCPU has."""
        return min(self._cpus.last_hardware_id + 1, 0xFE)

    @property
    def entries(self) -> list[tuple[int, bool]]:
        """(APIC id, whether it is there) of each."""
        return [(slot.hardware_id, slot.is_present) for slot in self._cpus]

    def tables(self) -> list[bytes]:
        """The MADT."""
        return [
            madt(
                lapic=self._lapic,
                cpus=self.entries,
                ioapic_id=self.ioapic_id,
                ioapic=self._ioapic,
                level_irqs=self._level_irqs,
                has_pic=self._has_pic,
            )
        ]


class X8664Board(Board):
    """A board with I/O ports."""

    def __init__(self, context: BoardContext, room: list[tuple[int, int]]) -> None:
        self.port_space = PortSpace()
        super().__init__(context, room, self.port_space)

    def add_keyboard_controller(self, context: BoardContext) -> None:
        """Add the i8042, which resets the machine."""
        controller = ResetController(context.guest_reset)
        self.add(Registers("i8042", self.port_space, KEYBOARD_PORT, KEYBOARD_PORTS, controller))

    def add_serial_port(
        self, context: BoardContext, within: Part | None = None
    ) -> SerialPort | None:
        """Add COM1 if the command line has a -serial."""
        if context.serial is None:
            return None
        from stratovirt.machine.parts.serial_port import SerialPort

        line = context.line(UART_GSI)
        return self.add(SerialPort(context.serial, self.port_space, UART_PORT, line), within)

    def add_nodes(self) -> None:
        """Add the tables of NUMA nodes if the command line has some."""
        if self.config.numa_nodes:
            from stratovirt.acpi.x86_64_affinity import affinity
            from stratovirt.machine.parts.topology import Topology

            self.add(Topology(self.config, self.cpus, self.ram_pieces, affinity=affinity))

    def acpi_tables(
        self,
        address: int,
        limit: int,
        sleep_type: int,
        fadt_of: Callable[[int, int], bytes],
        facs: bytes = b"",
    ) -> list[tuple[int, bytes]]:
        """(address, bytes) of all tables, the RSDP at `address`: see acpi.tables.lay_out."""
        others = [table for part in self.parts for table in part.tables()]
        return tables.lay_out(address, limit, self.dsdt(sleep_type), fadt_of, others, facs)
