"""Parts common to x86_64 boards: serial port, NUMA tables."""

from __future__ import annotations

from stratovirt.acpi import aml
from stratovirt.devices.uart16550 import REGISTERS as UART_REGISTERS
from stratovirt.devices.uart16550 import Uart16550
from stratovirt.machine.board import Board, BoardContext

UART_PORT, UART_GSI = 0x3F8, 4
NOTIFY_BUTTON_PRESSED = 0x80
"""Notification code of a control-method power button (ACPI 6.5, table 5.136)."""


class X8664Board(Board):
    """A board with I/O ports, whose first serial port is COM1."""

    def __init__(self, context: BoardContext, room: list[tuple[int, int]]) -> None:
        super().__init__(context, room)
        self.uart: Uart16550 | None = None
        if self.serial is not None:
            # Output that the client has not read yet, once the devices are closed.
            self.closing.callback(self.serial.drain)
            self.uart = Uart16550(self.serial, self._uart_irq)
            self.add_ports("uart", UART_PORT, UART_REGISTERS, self.uart)

    def _uart_irq(self, level: bool) -> None:
        self.accelerator.set_irq_level(UART_GSI, level)

    @property
    def ioapic_id(self) -> int:
        """An APIC id that no vCPU has."""
        return min(self.cpus.last_hardware_id + 1, 0xFE)

    def uart_aml(self) -> list[aml.Term]:
        """The serial port's AML device; empty without a serial port."""
        if self.serial is None:
            return []
        return [
            aml.device(
                "COM1",
                aml.name("_HID", aml.Term(aml.encode(aml.eisa_id("PNP0501")))),
                aml.name("_UID", 0),
                aml.name("_STA", 0xF),
                aml.name(
                    "_CRS",
                    aml.resources(aml.io_ports(UART_PORT, UART_REGISTERS), aml.interrupt(UART_GSI)),
                ),
            )
        ]

    def numa_tables(self) -> list[bytes]:
        """SRAT and SLIT; empty for a machine without NUMA nodes."""
        config = self.config
        if not config.numa_nodes:
            return []
        from stratovirt.acpi import numa
        from stratovirt.acpi.x86_64_affinity import affinity

        return [
            numa.srat(
                [affinity(slot.hardware_id, slot.node or 0) for slot in self.cpus],
                [(piece.gpa, piece.size, piece.node) for piece in self.ram_pieces],
            ),
            numa.slit(
                len(config.numa_nodes), {(d.src, d.dst): d.val for d in config.numa_distances}
            ),
        ]
