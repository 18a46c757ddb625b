"""virtio-net (virtio 1.2, section 5.1): a network card."""

from __future__ import annotations

from stratovirt.config.address_kinds import MacAddress
from stratovirt.config.buses import DeviceId
from stratovirt.config.devices import Sent, SingleFunctionPlace, WithQueueSize
from stratovirt.config.driver import DeviceOptions, over_mmio_and_pci
from stratovirt.config.kinds import DescriptorList, Identifier, OnOff, Reference
from stratovirt.config.options import opt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.config.driver import HotPlugged, HotReplaced
    from stratovirt.devices.device_host import DeviceHost
    from stratovirt.net.back_end import BackEnd
    from stratovirt.virtio.net import Net


class Card(DeviceOptions):
    """Which card."""

    netdev: str = opt(Reference("-netdev"), help="id of a -netdev")
    id: str | None = opt(Identifier(), default=None, help="device name")
    mac: bytes | None = opt(MacAddress(), default=None, help="address of the card")
    iothread: str | None = opt(
        Reference("-object iothread", shared=True),
        default=None,
        help="id of an -object iothread; no effect with vhost",
    )
    mq: bool = opt(OnOff(), default=False, help="offer all queue pairs of the netdev")
    vhost: bool = opt(OnOff(), default=False, help="as vhost of the netdev")
    vhostfd: tuple[str, ...] = opt(DescriptorList(), default=(), help="as vhostfd of the netdev")
    vhostfds: tuple[str, ...] = opt(DescriptorList(), default=(), help="as vhostfds of the netdev")


class VirtioNet(Sent, WithQueueSize, Card):
    """Network card (virtio 1.2, section 5.1)."""


def make(options: VirtioNet, host: DeviceHost) -> Net:
    """The card with its back end."""
    from stratovirt.virtio.net import Net

    name = options.id or f"virtio-net({options.netdev})"
    iothread = host.iothread(options.iothread)
    back_end = open_back_end(options, host)
    try:
        pairs = back_end.pairs if options.mq else 1
        card = Net(name, pairs, options.mac, host, queue_size=options.queue_size)
    except Exception:
        back_end.close()
        raise
    card.uses_kernel_interrupts = back_end.uses_kernel_interrupts
    card.connect(back_end, None, iothread)
    return card


def open_back_end(options: VirtioNet, host: DeviceHost) -> BackEnd:
    """The back end of the card's -netdev; raises StratovirtError."""
    from stratovirt.config.net import VhostUser

    netdev = host.config.netdevs[options.netdev]
    if isinstance(netdev, VhostUser):
        from stratovirt.net.vhost_user import VhostUserBackEnd

        back_end = VhostUserBackEnd(netdev, host.config.chardevs[netdev.chardev], host)
        back_end.begin(back_end.meet())
        return back_end
    from stratovirt.net.tap_back_end import TapBackEnd

    return TapBackEnd(
        netdev,
        host.access,
        vhost=options.vhost,
        vhostfds=options.vhostfds or options.vhostfd,
    )


def _in_slot() -> HotReplaced:
    from stratovirt.hotplug.virtio_net import IN_SLOT

    return IN_SLOT


def _behind_port() -> HotPlugged:
    from stratovirt.hotplug.virtio_net import BEHIND_PORT

    return BEHIND_PORT


DRIVERS = over_mmio_and_pci(
    "virtio-net",
    VirtioNet,
    make,
    device_id=DeviceId.NET,
    pci_place=SingleFunctionPlace,
    hot_replaced=_in_slot,
    hot_plugged=_behind_port,
    slot_aliases=("virtio-net-mmio",),
    native=("stratovirt._native.net_engine", "stratovirt._native.tap", "stratovirt._native.vhost"),
)
