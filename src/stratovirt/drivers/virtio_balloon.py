"""virtio-balloon (virtio 1.2, section 5.5): memory that the guest gives back."""

from __future__ import annotations

from stratovirt.config.buses import DeviceId
from stratovirt.config.driver import DeviceOptions, over_mmio_and_pci
from stratovirt.config.kinds import Identifier, OnOff
from stratovirt.config.options import opt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.devices.device_host import DeviceHost
    from stratovirt.virtio.balloon import Balloon


class VirtioBalloon(DeviceOptions):
    """Balloon (virtio 1.2, section 5.5)."""

    id: str | None = opt(Identifier(), default=None, help="device name")
    deflate_on_oom: bool = opt(
        OnOff(), default=False, help="give memory back to a guest that runs out"
    )
    free_page_reporting: bool = opt(
        OnOff(), default=False, help="give the host what the guest reports as free"
    )


def make(options: VirtioBalloon, host: DeviceHost) -> Balloon:
    """The device, deflated."""
    from stratovirt.virtio.balloon import Balloon

    return Balloon(
        options.id or "virtio-balloon",
        host,
        deflates_on_oom=options.deflate_on_oom,
        takes_reports=options.free_page_reporting,
    )


DRIVERS = over_mmio_and_pci(
    "virtio-balloon", VirtioBalloon, make, device_id=DeviceId.BALLOON, noun_of_only="balloon"
)
