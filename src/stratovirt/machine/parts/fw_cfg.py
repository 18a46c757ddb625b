"""fw_cfg, through which firmware learns of the machine, in I/O ports or in memory."""

from __future__ import annotations

from stratovirt.devices.fw_cfg import MMIO_BYTES, PORTS, FwCfg, InMemory
from stratovirt.machine.part import Part
from stratovirt.memory.address_space import IoRegion
from stratovirt.snapshot.state import Entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from stratovirt.boot.device_tree import DeviceTree
    from stratovirt.machine.part import BoardContext
    from stratovirt.memory.address_space import AddressSpace


class FirmwareConfig(Part):
    """The device without entries but those that say what it is; the board adds them."""

    def __init__(self, context: BoardContext, space: AddressSpace, base: int) -> None:
        super().__init__()
        self._base = base
        self.device = FwCfg(context.host.memory, context.accelerator.let_others_in)
        if space.has_ports:
            space.add(base, IoRegion("fw_cfg", PORTS, self.device))
        else:
            space.add(base, IoRegion("fw_cfg", MMIO_BYTES, InMemory(self.device)))

    def reset(self) -> None:
        """Select no entry."""
        self.device.reset()

    def states(self) -> Iterator[Entry]:
        """The selected entry, which the board has added before a restore."""
        yield Entry("fw_cfg", self.device)

    def device_tree(self, tree: DeviceTree) -> None:
        """The device in memory."""
        node = tree.add_device("fw-cfg", self._base, MMIO_BYTES, "qemu,fw-cfg-mmio")
        node.set("dma-coherent")
