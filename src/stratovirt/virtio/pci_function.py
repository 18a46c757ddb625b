"""The PCI function of a virtio device (virtio 1.2, section 4.1.4): ids, capabilities, window."""

from __future__ import annotations

import struct

from stratovirt.config.buses import DeviceId
from stratovirt.memory.address_space import IoRegion
from stratovirt.pci import config_space as regs
from stratovirt.pci import express
from stratovirt.pci.function import PciFunction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stratovirt.virtio.device import VirtioDevice

FIRST_DEVICE, REVISION = 0x1040, 1
CLASS_OTHER = 0x00FF00
CLASSES = {
    DeviceId.NET: 0x020000,
    DeviceId.BLOCK: 0x010000,
    DeviceId.CONSOLE: 0x078000,
    DeviceId.SOCKET: 0x028000,
}
"""Class codes: Ethernet, storage, communication, network."""

REGISTERS_BAR = 4
COMMON, ISR, DEVICE, NOTIFY = 0x0000, 0x1000, 0x2000, 0x3000
AREA_BYTES, BAR_BYTES = 0x1000, 0x4000
NOTIFY_MULTIPLIER = 4

CAP_COMMON, CAP_NOTIFY, CAP_ISR, CAP_DEVICE, CAP_PCI = 1, 2, 3, 4, 5
CAP_BYTES = 16


class VirtioFunction(PciFunction):
    """The PCI function of a virtio device, with a window to its registers (4.1.4.9)."""

    def __init__(self, device: VirtioDevice, *, is_integrated: bool) -> None:
        super().__init__(
            device.name,
            vendor=regs.VIRTIO_VENDOR,
            device=FIRST_DEVICE + device.device_id,
            class_code=CLASSES.get(device.device_id, CLASS_OTHER),
            revision=REVISION,
            subsystem=regs.BOARD_SUBSYSTEM,
        )
        self.config.set(regs.INTERRUPT_PIN, 1, 1)
        express.add_express(
            self, express.INTEGRATED_ENDPOINT if is_integrated else express.ENDPOINT
        )
        self._registers: IoRegion | None = None
        self._window = 0
        self.reset_device: Callable[[], None] = lambda: None

    def add_registers(self, registers: IoRegion) -> None:
        """Add the capabilities (4.1.4) that locate each structure within `registers`."""
        self._registers = registers
        for kind, offset in ((CAP_COMMON, COMMON), (CAP_ISR, ISR), (CAP_DEVICE, DEVICE)):
            self._add_capability(kind, offset)
        self._add_capability(CAP_NOTIFY, NOTIFY, struct.pack("<I", NOTIFY_MULTIPLIER))
        self._window = self._add_capability(CAP_PCI, 0, bytes(4), bar=0, length=0)
        for field, size in ((4, 1), (8, 4), (12, 4)):
            self.config.allow(self._window + field, size, (1 << 8 * size) - 1)

    def _add_capability(
        self,
        kind: int,
        offset: int,
        extra: bytes = b"",
        bar: int = REGISTERS_BAR,
        length: int = AREA_BYTES,
    ) -> int:
        head = struct.pack("<BBB3xII", CAP_BYTES + len(extra), kind, bar, offset, length)
        return self.config.add_capability(regs.CAP_VENDOR, head + extra)

    def reset(self) -> None:
        """Reset to power-on state; the device is stopped before configuration space is reset."""
        self.reset_device()
        super().reset()

    def read_config(self, offset: int, size: int) -> int:
        """Read configuration space; the window's data field reads the register it selects."""
        if offset == self._window + CAP_BYTES:
            at = self._window_target(size)
            if at is not None:
                assert self._registers is not None
                return self._registers.handler.read(at, size)
        return super().read_config(offset, size)

    def write_config(self, offset: int, size: int, value: int) -> None:
        """Write configuration space; the window's data field writes the register it selects."""
        if offset == self._window + CAP_BYTES:
            at = self._window_target(size)
            if at is not None:
                assert self._registers is not None
                self._registers.handler.write(at, size, value)
            return
        super().write_config(offset, size, value)

    def _window_target(self, size: int) -> int | None:
        config, window = self.config, self._window
        offset, length = config.get(window + 8, 4), config.get(window + 12, 4)
        if config.get(window + 4, 1) != REGISTERS_BAR or length != size:
            return None
        return offset if offset % size == 0 and offset + size <= BAR_BYTES else None
