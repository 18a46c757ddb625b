"""q35: PCI Express, firmware in flash or direct kernel boot, and a PC's legacy devices."""

from __future__ import annotations

import os

from stratovirt.acpi import aml, tables
from stratovirt.boot import x86_64_linux
from stratovirt.config.buses import PCI
from stratovirt.devices.x86_64_ich9 import SLEEP_TYPE_S5
from stratovirt.devices.x86_64_rtc import CENTURY
from stratovirt.machine import x86_64_q35_layout as layout
from stratovirt.machine.parts.pci_express import PciExpress, PciMap
from stratovirt.machine.x86_64_board import Processors, X8664Board
from stratovirt.machine.x86_64_chipset import Chipset, ConfigRegisters
from stratovirt.machine.x86_64_clock import Clock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.cpu.x86_64_boot import EntryPoint
    from stratovirt.machine.part import BoardContext
    from stratovirt.machine.x86_64_q35_firmware import Firmware
    from stratovirt.virtio.device import VirtioDevice

FULL_RESET = 0x0E
"""Value of the reset control register for a full reset."""


class Q35(X8664Board):
    """The board."""

    bus = PCI
    restarts_on_reset = True
    modules_of_load = ("stratovirt.machine.smbios", "stratovirt.acpi.loader")

    def __init__(self, context: BoardContext) -> None:
        super().__init__(context, layout.ram_pieces(context.config.memory.size))
        memory, ports = self.memory_space, self.port_space
        self.add(
            Processors(
                self.cpus,
                layout.LAPIC,
                layout.IOAPIC,
                level_irqs=(layout.SCI_GSI,),
                has_pic=True,
            )
        )
        self.pci = self.add(
            PciExpress(
                context,
                memory,
                layout.INTX_FIRST_GSI,
                self._pci_map,
                ports=ports,
                port_resources=(
                    aml.io_ports(layout.CONFIG_PORTS, 8),
                    aml.window16(aml.IO_RANGE, 0, layout.CONFIG_PORTS - 1),
                    aml.window16(aml.IO_RANGE, layout.CONFIG_PORTS + 8, 0xFFFF),
                ),
            )
        )
        self.add_nodes()
        self.add(ConfigRegisters(context, self.pci.host, ports, layout.CONFIG_PORTS))
        self.add_keyboard_controller(context)
        sci = context.line(layout.SCI_GSI)
        self.chipset = self.add(Chipset(context, self.pci.host, ports, sci), within=self.pci)
        rtc = context.line(layout.RTC_GSI)
        self.add(Clock(context, ports, layout.RTC_PORT, rtc, self.ram), within=self.chipset)
        self.add_serial_port(context, within=self.chipset)
        self._firmware: Firmware | None = None
        if self.config.flashes:
            from stratovirt.machine.x86_64_q35_firmware import Firmware

            self._firmware = Firmware(
                self, context, self.pci, acpi=self._acpi_tables, smbios=self._smbios
            )
        self.pci.fill(self)
        self.hot_plug = self.pci.hot_plug
        if self._firmware is not None and context.template is not None:
            # A restored guest may read on, and `load` is not called.
            self._firmware.load()
        memory.commit()
        ports.commit()

    @property
    def devices(self) -> list[VirtioDevice]:
        """All virtio devices."""
        return self.pci.devices

    def _pci_map(self) -> PciMap:
        """The memory for BARs: low memory is around ECAM, wherever firmware has put that."""
        ecam = self.chipset.mch.ecam or (layout.ECAM, layout.ECAM_BYTES)
        return PciMap(
            ecam,
            layout.low_windows(ecam, self.ram),
            layout.high_window(self.ram, self.accelerator.physical_address_bits),
        )

    def _acpi_tables(self, address: int, limit: int) -> list[tuple[int, bytes]]:
        """(address, bytes) of all tables, the RSDP at `address`."""
        return self.acpi_tables(
            address,
            limit,
            SLEEP_TYPE_S5,
            lambda dsdt, facs: tables.fixed_fadt(
                facs=facs,
                dsdt=dsdt,
                sci=layout.SCI_GSI,
                pm=layout.PM_PORTS,
                reset_port=layout.RESET_PORT,
                reset_value=FULL_RESET,
                century=CENTURY,
            ),
            facs=tables.facs(),
        )

    def _smbios(self) -> bytes:
        """The SMBIOS structures."""
        from stratovirt.machine.smbios import smbios_tables

        topology = self.cpus.topology
        return smbios_tables(
            uuid=self.config.uuid,
            sockets=topology.sockets,
            cores=topology.dies * topology.clusters * topology.cores,
            threads=topology.threads,
            ram=self.ram,
        )

    def load(self) -> EntryPoint | None:
        """Fill fw_cfg; without firmware load the kernel and do the firmware's set-up."""
        if self._firmware is not None:
            self._firmware.load()
            return None
        self.chipset.place(layout.ECAM, layout.PM_PORTS)
        self.pci.number_buses()
        for address, content in self._acpi_tables(x86_64_linux.ACPI_TABLES, layout.SMBIOS_ENTRY):
            self.guest_memory.write(address, content)
        self._write_smbios()
        if self.kernel is None:
            return None
        return x86_64_linux.load_linux(
            kernel=self.kernel,
            initrd=self.initrd,
            command_line=os.fsencode(self.config.append),
            memory=self.guest_memory,
            ram=self.ram,
            reserved=[(layout.ECAM, layout.ECAM_BYTES)],
        )

    def _write_smbios(self) -> None:
        from stratovirt.machine.smbios import entry_point

        structures = self._smbios()
        if layout.SMBIOS_TABLES + len(structures) < x86_64_linux.RESET_VECTOR:
            entry = entry_point(structures, layout.SMBIOS_TABLES)
            self.guest_memory.write(layout.SMBIOS_ENTRY, entry)
            self.guest_memory.write(layout.SMBIOS_TABLES, structures)

    def press_power_button(self) -> None:
        """Signal a power-off request to the guest through ACPI."""
        self.chipset.power.press_power_button()
