"""microvm on x86_64: RAM, a serial port, power control and virtio-mmio slots."""

from __future__ import annotations

import os

from stratovirt.acpi import tables
from stratovirt.boot import x86_64_linux
from stratovirt.boot.x86_64_mptable import mp_table
from stratovirt.config.buses import MMIO
from stratovirt.cpu.x86_64_boot import EntryPoint
from stratovirt.devices.acpi_sleep import REGISTERS as SLEEP_REGISTERS
from stratovirt.devices.acpi_sleep import SLEEP_TYPE_S5, SleepController
from stratovirt.devices.x86_64_i8042 import PULSE_RESET
from stratovirt.machine import x86_64_microvm_layout as layout
from stratovirt.machine.part import Registers
from stratovirt.machine.parts.power_events import PowerEvents
from stratovirt.machine.parts.virtio_slots import VirtioSlots
from stratovirt.machine.x86_64_board import RESET_PORT, Processors, X8664Board

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.machine.part import BoardContext
    from stratovirt.virtio.device import VirtioDevice


class Microvm(X8664Board):
    """The board; it may have slots whose back ends QMP clients add and remove (hot-replace)."""

    bus = MMIO

    def __init__(self, context: BoardContext) -> None:
        super().__init__(context, layout.ram_pieces(context.config.memory.size))
        memory, ports = self.memory_space, self.port_space
        self.processors = self.add(Processors(self.cpus, layout.LAPIC, layout.IOAPIC))
        self.add_nodes()
        self.virtio = self.add(
            VirtioSlots(
                context,
                memory,
                layout.VIRTIO_MMIO,
                layout.VIRTIO_GSIS,
                first_hot_line=layout.HOT_REPLACE_FIRST_GSI,
            )
        )
        self.add_serial_port(context)
        self.events = self.add(
            PowerEvents(
                self.guest_memory,
                memory,
                layout.GED,
                context.line(layout.GED_GSI),
                generation_id=x86_64_linux.GENERATION_ID,
            )
        )
        self.add_keyboard_controller(context)
        sleep = SleepController(context.guest_power_off)
        self.add(Registers("sleep", ports, layout.SLEEP_PORT, SLEEP_REGISTERS, sleep))
        self.virtio.fill(self)
        self.hot_plug = self.virtio.hot_replace
        memory.commit()
        ports.commit()

    @property
    def devices(self) -> list[VirtioDevice]:
        """All virtio devices."""
        return self.virtio.devices

    def load(self) -> EntryPoint | None:
        """Load kernel and tables; returns the first vCPU's entry, None without a kernel."""
        for address, content in [*self._acpi_tables(), *self._mp_table()]:
            self.guest_memory.write(address, content)
        self.events.write_generation()
        if self.kernel is None:
            return None
        # In front, because words after "--" in the user's text go to init, not to the kernel.
        words = [*self.virtio.kernel_arguments(), self.config.append]
        return x86_64_linux.load_linux(
            kernel=self.kernel,
            initrd=self.initrd,
            # The user's original bytes, even when they are not UTF-8.
            command_line=os.fsencode(" ".join(words).strip()),
            memory=self.guest_memory,
            ram=self.ram,
        )

    def _acpi_tables(self) -> list[tuple[int, bytes]]:
        return self.acpi_tables(
            x86_64_linux.ACPI_TABLES,
            x86_64_linux.GENERATION_ID,
            SLEEP_TYPE_S5,
            lambda dsdt, _facs: tables.fadt(
                dsdt=dsdt,
                reset_port=RESET_PORT,
                reset_value=PULSE_RESET,
                sleep_control=layout.SLEEP_PORT,
                sleep_status=layout.SLEEP_PORT + 1,
            ),
        )

    def _mp_table(self) -> list[tuple[int, bytes]]:
        """The MP table, for kernels without ACPI; empty if it is larger than the EBDA."""
        cpus, base = self.processors, x86_64_linux.EBDA
        table = mp_table(cpus.entries, cpus.ioapic_id, layout.IOAPIC, layout.LAPIC, base)
        # The guest loses nothing: ACPI lists all vCPUs.
        return [(base, table)] if len(table) <= x86_64_linux.LOW_RAM_TOP - base else []

    def press_power_button(self) -> None:
        """Signal a power-off request to the guest through ACPI."""
        self.events.press_power_button()
