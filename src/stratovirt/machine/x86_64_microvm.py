"""microvm on x86_64: RAM, a serial port, power control and virtio-mmio slots."""

from __future__ import annotations

import os

from stratovirt.acpi.vmgenid import BYTES as GENERATION_ID_BYTES
from stratovirt.boot import x86_64_linux
from stratovirt.config.buses import MMIO
from stratovirt.cpu.x86_64_boot import EntryPoint
from stratovirt.devices.acpi_sleep import REGISTERS as SLEEP_REGISTERS
from stratovirt.devices.acpi_sleep import SleepController
from stratovirt.devices.ged import NEW_GENERATION, POWER_BUTTON, GenericEventDevice
from stratovirt.devices.ged import REGISTERS as GED_REGISTERS
from stratovirt.devices.x86_64_i8042 import PORTS, ResetController
from stratovirt.machine import x86_64_microvm_layout as layout
from stratovirt.machine.x86_64_board import X8664Board
from stratovirt.machine.x86_64_microvm_tables import acpi_tables, mp_tables
from stratovirt.memory.address_space import IoRegion
from stratovirt.snapshot.paths import DevicePaths
from stratovirt.snapshot.state import Entry, Stateless
from stratovirt.virtio.mmio import MmioTransport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from stratovirt.machine.board import BoardContext
    from stratovirt.virtio.device import VirtioDevice


HOT_REPLACE = ("virtio-blk-device", "virtio-net-device")
"""The devices in the board's hot-replace slots, in the slots' order."""
HOT_REPLACE_PATH = "hot-replace"
"""Path of the hot-replace slots in the tree of states."""


class Microvm(X8664Board):
    """The board; it may have slots whose back ends QMP clients add and remove (hot-replace).

    Built from a template, it has `restore` called in place of `load`.
    """

    bus = MMIO

    def __init__(self, context: BoardContext) -> None:
        super().__init__(context, layout.ram_pieces(context.config.memory.size))
        self.slots: list[MmioTransport] = []
        self._paths: dict[str, tuple[MmioTransport, str]] = {}
        """The slots by path in the tree of states, with the driver of each."""
        self.add_ports("i8042", layout.KEYBOARD_PORT, PORTS, ResetController(context.guest_reset))
        self.add_ports(
            "sleep", layout.SLEEP_PORT, SLEEP_REGISTERS, SleepController(context.guest_power_off)
        )
        self._ged = GenericEventDevice(self._ged_irq)
        self.memory_space.add(layout.GED, IoRegion("ged", GED_REGISTERS, self._ged))
        self._generation_id = os.urandom(GENERATION_ID_BYTES)
        # A restored guest must find the hot-replace slots that it was saved with.
        template = context.template
        self._add_devices(
            self.config.has_hot_replace if template is None else template.has(HOT_REPLACE_PATH)
        )
        self.memory_space.commit()
        self.port_space.commit()

    @property
    def devices(self) -> list[VirtioDevice]:
        """All virtio devices."""
        return [slot.device for slot in self.slots]

    def load(self) -> EntryPoint | None:
        """Load kernel and tables; returns the first vCPU's entry, None without a kernel."""
        for address, content in [*acpi_tables(self, self.slots), *mp_tables(self)]:
            self.guest_memory.write(address, content)
        self.guest_memory.write(x86_64_linux.GENERATION_ID, self._generation_id)
        if self.kernel is None:
            return None
        return x86_64_linux.load_linux(
            kernel=self.kernel,
            initrd=self.initrd,
            command_line=self._command_line(),
            memory=self.guest_memory,
            ram=self.ram,
        )

    def reset(self) -> EntryPoint | None:
        """Reset all devices to power-on state and call `load`; vCPUs must be paused."""
        for slot in self.slots:
            slot.reset()
        self._ged.reset()
        if self.uart is not None:
            self.uart.reset()
        return self.load()

    def states(self) -> Iterator[Entry]:
        """The virtio slots, then the board's own devices."""
        for path, (slot, driver) in self._paths.items():
            yield Entry(path, slot, driver)
            yield Entry(f"{path}/device", slot.device, driver)
        if self.hot_plug is not None:
            yield Entry(HOT_REPLACE_PATH, Stateless(), "-qmp")
        if self.uart is not None:
            yield Entry("serial", self.uart, "-serial")
        yield Entry("ged", self._ged)

    def restored(self) -> None:
        """Give the guest another generation id and tell it."""
        self.guest_memory.write(x86_64_linux.GENERATION_ID, self._generation_id)
        self._ged.raise_event(NEW_GENERATION)

    def press_power_button(self) -> None:
        """Signal a power-off request to the guest through ACPI."""
        self._ged.raise_event(POWER_BUTTON)

    def _ged_irq(self, level: bool) -> None:
        self.accelerator.set_irq_level(layout.GED_GSI, level)

    def _add_devices(self, with_hot_replace: bool) -> None:
        """Add the devices of the command line, then the empty hot-replace ones.

        QMP clients add and remove the back ends of the latter.  Linux numbers disks and cards in
        this order, so vda is block slot 0.
        """
        devices: tuple[Any, ...] = self.config.devices
        virtio = [options for options in devices if options.driver.bus == MMIO]
        if with_hot_replace:
            from stratovirt.machine.hot_replace import HotReplace

            self.hot_plug = slots = HotReplace(self.host, self.inventory, HOT_REPLACE)
            self.closing.callback(slots.close)
        paths = DevicePaths()
        for index, options in enumerate(virtio):
            device = options.driver.make(options, self.host)
            if with_hot_replace:
                slots.adopt(options, device)
            slot = self._add_virtio(device, index, layout.VIRTIO_FIRST_GSI + index)
            self._paths[paths.next(options)] = slot, options.driver.name
        for options in devices:
            if options.driver.bus != MMIO:
                options.driver.make(options, self)
        if with_hot_replace:
            for number, device in slots.fill_up():
                slot = self._add_virtio(
                    device, layout.VIRTIO_SLOTS + number, layout.HOT_REPLACE_FIRST_GSI + number
                )
                self._paths[f"{HOT_REPLACE_PATH}/{number}"] = slot, ""

    def _add_virtio(self, device: VirtioDevice, index: int, gsi: int) -> MmioTransport:
        self.closing.callback(device.close)
        slot = MmioTransport(
            device,
            self.guest_memory,
            self.accelerator,
            self.memory_space,
            layout.VIRTIO_MMIO + index * layout.VIRTIO_SLOT,
            gsi,
        )
        self.closing.callback(slot.close)
        self.slots.append(slot)
        return slot

    def _command_line(self) -> bytes:
        # In front, because words after "--" in the user's text go to init, not to the kernel.
        added = [f"virtio_mmio.device=512@0x{slot.base:x}:{slot.gsi}" for slot in self.slots]
        # The user's original bytes, even when they are not UTF-8.
        return os.fsencode(" ".join([*added, self.config.append]).strip())
