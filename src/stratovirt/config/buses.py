"""The buses that drivers of -device fit, and the numbers of virtio devices."""

from __future__ import annotations

MMIO, PCI, VIRTIO_SERIAL = "virtio-mmio", "PCI", "virtio-serial"
"""The buses that drivers fit."""


class DeviceId:
    """Virtio device ids (virtio 1.2, section 5)."""

    NET = 1
    BLOCK = 2
    CONSOLE = 3
    ENTROPY = 4
    BALLOON = 5
    SOCKET = 19
