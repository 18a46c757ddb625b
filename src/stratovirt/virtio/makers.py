"""Makes the device for a driver's options; a device module is imported at its first use."""

from __future__ import annotations

import importlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from stratovirt.devices.device_host import DeviceHost
    from stratovirt.virtio.device import VirtioDevice

MODULES = {
    "virtio-blk": "stratovirt.virtio.blk",
    "virtio-net": "stratovirt.virtio.net",
    "virtio-serial": "stratovirt.virtio.console",
    "vhost-vsock": "stratovirt.virtio.vsock",
    "virtio-balloon": "stratovirt.virtio.balloon",
    "virtio-rng": "stratovirt.virtio.rng",
}
"""The module whose function `make` builds the device, by the driver's name without transport."""


def make_device(options: Any, host: DeviceHost) -> VirtioDevice:
    """The device for the options of any virtio driver; raises StratovirtError."""
    driver = options.flag.removeprefix("-device ")
    stem = driver.removesuffix("-device").removesuffix("-pci")
    device: VirtioDevice = importlib.import_module(MODULES[stem]).make(options, host)
    return device
