"""virtio-mmio slots: the devices of the command line, then those whose back ends come and go."""

from __future__ import annotations

from stratovirt.acpi import aml
from stratovirt.config.buses import MMIO
from stratovirt.machine.part import Part
from stratovirt.snapshot.paths import DevicePaths
from stratovirt.snapshot.state import Entry, Stateless
from stratovirt.virtio.mmio import SLOT_BYTES, MmioTransport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from stratovirt.boot.device_tree import DeviceTree
    from stratovirt.machine.hot_replace import HotReplace
    from stratovirt.machine.part import BoardContext
    from stratovirt.memory.address_space import AddressSpace
    from stratovirt.virtio.device import VirtioDevice

HOT_REPLACE_PATH = "hot-replace"
"""Path of the hot-replace slots in the tree of states."""


class VirtioSlots(Part):
    """Slots of SLOT_BYTES from `base` on, empty until `fill`.

    `lines` are the interrupt lines of the slots for the command line; the hot-replace slots after
    them have lines from `first_hot_line` on.
    """

    def __init__(
        self,
        context: BoardContext,
        space: AddressSpace,
        base: int,
        lines: range,
        *,
        first_hot_line: int,
    ) -> None:
        super().__init__()
        self._context, self._space, self._base = context, space, base
        self._lines, self._first_hot_line = lines, first_hot_line
        self.slots: list[MmioTransport] = []
        self._paths: dict[str, tuple[MmioTransport, str]] = {}
        """The slots by path in the tree of states, with the driver of each."""
        self.hot_replace: HotReplace | None = None

    @property
    def devices(self) -> list[VirtioDevice]:
        """The devices in the slots."""
        return [slot.device for slot in self.slots]

    def fill(self, board: object) -> None:
        """Create the devices of the command line, then the empty hot-replace ones.

        Drivers of other buses get the `board`.  QMP clients add and remove the back ends of
        hot-replace devices.  Linux numbers disks and cards in this order, so vda is block slot 0.
        Raises StratovirtError.
        """
        context, lines = self._context, self._lines
        devices: tuple[Any, ...] = context.config.devices
        virtio = [options for options in devices if options.driver.bus == MMIO]
        if self._has_hot_replace:
            from stratovirt.machine.hot_replace import HotReplace

            self.hot_replace = HotReplace(context.host, context.inventory)
            context.closing.callback(self.hot_replace.close)
        paths = DevicePaths()
        for index, options in enumerate(virtio):
            device = options.driver.make(options, context.host)
            if self.hot_replace is not None:
                self.hot_replace.adopt(options, device)
            slot = self._add(device, index, lines[index])
            self._paths[paths.next(options)] = slot, options.driver.name
        for options in devices:
            if options.driver.bus != MMIO:
                options.driver.make(options, board)
        if self.hot_replace is not None:
            for number, device in self.hot_replace.fill_up():
                slot = self._add(device, len(lines) + number, self._first_hot_line + number)
                self._paths[f"{HOT_REPLACE_PATH}/{number}"] = slot, ""

    @property
    def _has_hot_replace(self) -> bool:
        """A restored guest must find the hot-replace slots that it was saved with."""
        template = self._context.template
        if template is not None:
            return template.has(HOT_REPLACE_PATH)
        return self._context.config.has_hot_replace

    def _add(self, device: VirtioDevice, index: int, line: int) -> MmioTransport:
        context = self._context
        context.closing.callback(device.close)
        slot = MmioTransport(
            device,
            context.host.memory,
            context.accelerator,
            self._space,
            self._base + index * SLOT_BYTES,
            line,
        )
        context.closing.callback(slot.close)
        self.slots.append(slot)
        return slot

    def states(self) -> Iterator[Entry]:
        """Each slot and its device, and that there are hot-replace slots."""
        for path, (slot, driver) in self._paths.items():
            yield Entry(path, slot, driver)
            yield Entry(f"{path}/device", slot.device, driver)
        if self.hot_replace is not None:
            yield Entry(HOT_REPLACE_PATH, Stateless(), "-qmp")

    def reset(self) -> None:
        """Reset the devices; returns when no request is in flight."""
        for slot in self.slots:
            slot.reset()

    def kernel_arguments(self) -> list[str]:
        """The slots as arguments of a Linux kernel that reads neither ACPI nor a device tree."""
        size = SLOT_BYTES
        return [f"virtio_mmio.device={size}@0x{slot.base:x}:{slot.gsi}" for slot in self.slots]

    def aml(self) -> list[aml.Term]:
        """A device for each slot."""
        return [
            aml.device(
                f"V{number:03d}",
                aml.name("_HID", "LNRO0005"),
                aml.name("_UID", number),
                aml.name("_CCA", 1),
                aml.name(
                    "_CRS",
                    aml.resources(aml.memory32(slot.base, SLOT_BYTES), aml.interrupt(slot.gsi)),
                ),
            )
            for number, slot in enumerate(self.slots)
        ]

    def device_tree(self, tree: DeviceTree) -> None:
        """A node for each slot."""
        for slot in self.slots:
            node = tree.add_device("virtio_mmio", slot.base, SLOT_BYTES, "virtio,mmio")
            node.set("interrupts", *tree.interrupt(slot.gsi, level=False))
            node.set("dma-coherent")
