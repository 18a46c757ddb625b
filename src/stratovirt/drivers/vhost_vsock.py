"""vhost-vsock (virtio 1.2, section 5.10): sockets between guest and host."""

from __future__ import annotations

from stratovirt.config.buses import DeviceId
from stratovirt.config.driver import DeviceOptions, over_mmio_and_pci
from stratovirt.config.kinds import DescriptorList, Identifier, Integer
from stratovirt.config.options import opt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.devices.device_host import DeviceHost
    from stratovirt.virtio.vsock import Vsock

CID_LOWEST, CID_HIGHEST = 3, (1 << 32) - 2
"""Context ids below 3 are the hypervisor's, the local and the host's; the highest is "any"."""


class VhostVsock(DeviceOptions):
    """Socket device (virtio 1.2, section 5.10), run by the kernel's vhost-vsock."""

    guest_cid: int = opt(Integer(CID_LOWEST, CID_HIGHEST), help="the guest's context id")
    id: str | None = opt(Identifier(), default=None, help="device name")
    vhostfd: tuple[str, ...] = opt(
        DescriptorList(), default=(), help="open /dev/vhost-vsock descriptor"
    )


def make(options: VhostVsock, host: DeviceHost) -> Vsock:
    """The device; raises StratovirtError."""
    from stratovirt.virtio.vsock import open_vsock

    source = f"{options.flag},guest-cid={options.guest_cid}"
    name = options.id or "vhost-vsock"
    return open_vsock(name, options.guest_cid, options.vhostfd, host, source)


DRIVERS = over_mmio_and_pci(
    "vhost-vsock", VhostVsock, make, device_id=DeviceId.SOCKET, noun_of_only="socket"
)
