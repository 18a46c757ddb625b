"""Parts common to x86_64 boards: serial port, APIC ids, NUMA tables."""

from __future__ import annotations

from stratovirt.acpi import aml
from stratovirt.config.vm_config import VmConfig
from stratovirt.cpu.x86_64_topology import apic_ids
from stratovirt.devices.uart16550 import REGISTERS as UART_REGISTERS
from stratovirt.devices.uart16550 import Uart16550
from stratovirt.machine.board import Board

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.accel.base import Accelerator
    from stratovirt.chardev.backend import Chardev
    from stratovirt.devices.device_host import DeviceHost
    from stratovirt.memory.ram import RamTemplate

UART_PORT, UART_GSI = 0x3F8, 4
NOTIFY_BUTTON_PRESSED = 0x80
"""Notification code of a control-method power button (ACPI 6.5, table 5.136)."""


class X8664Board(Board):
    """A board with I/O ports, whose first serial port is COM1."""

    def __init__(
        self,
        config: VmConfig,
        accelerator: Accelerator,
        host: DeviceHost,
        serial: Chardev | None,
        room: list[tuple[int, int]],
        template: RamTemplate | None = None,
    ) -> None:
        super().__init__(config, accelerator, host, serial, room, template)
        self.apic_ids = apic_ids(config.smp)
        self.uart: Uart16550 | None = None
        if serial is not None:
            self.uart = Uart16550(serial, self._uart_irq)
            self.add_ports("uart", UART_PORT, UART_REGISTERS, self.uart)

    def _uart_irq(self, level: bool) -> None:
        self.accelerator.set_irq_level(UART_GSI, level)

    @property
    def ioapic_id(self) -> int:
        """An APIC id that no vCPU has."""
        return min(max(self.apic_ids) + 1, 0xFE)

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
        from stratovirt.acpi.x86_64_processors import affinity
        from stratovirt.config.numa_check import node_ids

        numbers = node_ids(config)
        node_of = {
            cpu: number
            for number, node in zip(numbers, config.numa_nodes, strict=True)
            for cpu in node.cpus
        }
        return [
            numa.srat(
                [affinity(apic_id, node_of[index]) for index, apic_id in enumerate(self.apic_ids)],
                [(piece.gpa, piece.size, piece.node) for piece in self.ram_pieces],
            ),
            numa.slit(len(numbers), {(d.src, d.dst): d.val for d in config.numa_distances}),
        ]
