"""q35: PCI Express, firmware in flash or direct kernel boot, and a PC's legacy devices."""

from __future__ import annotations

import os

from stratovirt.boot import x86_64_linux
from stratovirt.config.buses import PCI
from stratovirt.devices.x86_64_i8042 import PORTS as KEYBOARD_PORTS
from stratovirt.devices.x86_64_i8042 import ResetController
from stratovirt.devices.x86_64_ich9 import LpcBridge, Mch, PowerManagement
from stratovirt.devices.x86_64_rtc import PORTS as RTC_PORTS
from stratovirt.devices.x86_64_rtc import Rtc
from stratovirt.machine import x86_64_q35_layout as layout
from stratovirt.machine.pci_devices import PciDevices
from stratovirt.machine.x86_64_board import X8664Board
from stratovirt.machine.x86_64_q35_tables import acpi_tables, smbios
from stratovirt.pci.host_bridge import Ecam, PciHost
from stratovirt.pci.x86_64_config_ports import PORTS as CONFIG_PORTS
from stratovirt.pci.x86_64_config_ports import ConfigPorts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.cpu.x86_64_boot import EntryPoint
    from stratovirt.machine.board import BoardContext
    from stratovirt.machine.x86_64_q35_firmware import Firmware
    from stratovirt.virtio.device import VirtioDevice

SMBIOS_ENTRY, SMBIOS_TABLES = 0xF_8000, 0xF_8020
"""SMBIOS without firmware: in the area that Linux searches; the ACPI tables end before."""


class Q35(X8664Board):
    """The board."""

    restarts_on_reset = True
    # For the clock, and for the tables of a reset.
    late_modules = ("calendar", "stratovirt.machine.smbios", "stratovirt.acpi.loader")
    bus = PCI

    def __init__(self, context: BoardContext) -> None:
        super().__init__(context, layout.ram_pieces(context.config.memory.size))
        config, accelerator, guest_reset = self.config, self.accelerator, context.guest_reset
        self.pci = PciHost(
            self.memory_space, self.port_space, layout.INTX_FIRST_GSI, accelerator.set_irq_level
        )
        self.pci_devices = PciDevices(self.pci, self.host, accelerator)
        self.closing.callback(self._close_hot_plug)
        self.closing.callback(self.pci_devices.close)
        self._config_ports = ConfigPorts(self.pci, guest_reset)
        self.add_ports("pci-config", layout.CONFIG_PORTS, CONFIG_PORTS, self._config_ports)
        self.add_ports("i8042", layout.KEYBOARD_PORT, KEYBOARD_PORTS, ResetController(guest_reset))
        self.mch = Mch(self.memory_space, Ecam(self.pci))
        self.power = PowerManagement(accelerator.clock, self._set_sci, context.guest_power_off)
        self._lpc = LpcBridge(self.port_space, self.power)
        self.pci.root.attach(self.mch, layout.HOST_BRIDGE_PLACE)
        self.pci.root.attach(self._lpc, layout.LPC_PLACE)
        self._rtc = Rtc(accelerator.clock, self.host.loop, self._set_rtc, self.ram)
        self._rtc.set_last_cpu(len(self.cpus.present) - 1)
        self.add_ports("rtc", layout.RTC_PORT, RTC_PORTS, self._rtc)
        self._firmware: Firmware | None = None
        if config.flashes:
            from stratovirt.machine.x86_64_q35_firmware import Firmware

            self._firmware = Firmware(self, self.mch, self.pci, self.pci_devices)
        self._add_devices()
        self.memory_space.commit()
        self.port_space.commit()

    def _add_devices(self) -> None:
        # Root ports first: a device may name a bus that is defined after it on the command line.
        for options in sorted(self.config.devices, key=lambda o: o.driver.provides != PCI):
            if options.driver.bus == PCI:
                self.pci_devices.add(options)
            else:
                options.driver.make(options, self)
        self.pci_devices.check_slots(self.config.devices)
        for port in self.pci.root_ports:
            port.reset()
        if self.config.monitors:
            from stratovirt.machine.pci_hotplug import PciHotPlug

            self.hot_plug = PciHotPlug(self.host, self.inventory, self.pci, self.pci_devices)

    def _close_hot_plug(self) -> None:
        if self.hot_plug is not None:
            self.hot_plug.close()

    @property
    def devices(self) -> list[VirtioDevice]:
        """All virtio devices."""
        return self.pci_devices.virtio_devices

    def _set_sci(self, level: bool) -> None:
        self.accelerator.set_irq_level(layout.SCI_GSI, level)

    def _set_rtc(self, level: bool) -> None:
        self.accelerator.set_irq_level(layout.RTC_GSI, level)

    def load(self) -> EntryPoint | None:
        """Fill fw_cfg; without firmware load the kernel and do the firmware's set-up."""
        if self._firmware is not None:
            self._firmware.load()
            return None
        self.mch.set_ecam(layout.ECAM)
        self._lpc.set_block(layout.PM_PORTS)
        self._number_buses()
        tables = acpi_tables(self, self.mch, x86_64_linux.ACPI_TABLES, SMBIOS_ENTRY)
        for address, content in tables:
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

    def _number_buses(self) -> None:
        """Assign bus numbers to the root ports, in place of firmware."""
        for number, port in enumerate(self.pci.root_ports, start=1):
            port.set_numbers(number)

    def _write_smbios(self) -> None:
        from stratovirt.machine.smbios import entry_point

        tables = smbios(self)
        if SMBIOS_TABLES + len(tables) < x86_64_linux.RESET_VECTOR:
            self.guest_memory.write(SMBIOS_ENTRY, entry_point(tables, SMBIOS_TABLES))
            self.guest_memory.write(SMBIOS_TABLES, tables)

    def reset(self) -> EntryPoint | None:
        """Reset all devices to power-on state and call `load`; vCPUs must be paused."""
        self.pci.reset()
        self._config_ports.power_on()
        self.power.reset()
        self._rtc.reset()
        if self.uart is not None:
            self.uart.reset()
        if self._firmware is not None:
            self._firmware.reset()
        return self.load()

    def states(self) -> tuple[()]:
        """None yet: see `obstacle`."""
        return ()

    @property
    def obstacle(self) -> str:
        """Snapshots of q35 are not supported yet."""
        return "-machine q35: only microvm can be saved yet"

    def restored(self) -> None:
        """Does nothing: no snapshot of q35 exists."""

    def press_power_button(self) -> None:
        """Signal a power-off request to the guest through ACPI."""
        self.power.press_power_button()
