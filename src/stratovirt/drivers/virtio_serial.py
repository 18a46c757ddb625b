"""virtio-serial (virtio 1.2, section 5.3): the device that carries consoles."""

from __future__ import annotations

from stratovirt.config.buses import VIRTIO_SERIAL, DeviceId
from stratovirt.config.driver import DeviceOptions, over_mmio_and_pci
from stratovirt.config.kinds import Identifier
from stratovirt.config.options import opt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.devices.device_host import DeviceHost
    from stratovirt.virtio.console import Console


class VirtioSerial(DeviceOptions):
    """Console device (virtio 1.2, section 5.3) that carries the virtconsole ports behind it.

    There may be several, which is more than the one that the guidebook's section 2.4 promises.
    """

    id: str | None = opt(Identifier(), default=None, help="device name")


def make(options: VirtioSerial, host: DeviceHost) -> Console:
    """The device without ports."""
    from stratovirt.virtio.console import Console

    return Console(options.id or "virtio-serial", host)


DRIVERS = over_mmio_and_pci(
    "virtio-serial", VirtioSerial, make, device_id=DeviceId.CONSOLE, provides=VIRTIO_SERIAL
)
