"""Network cards that come and go while the machine runs."""

from __future__ import annotations

from stratovirt.config.address_kinds import MacAddress
from stratovirt.config.devices import Sent
from stratovirt.config.driver import DeviceOptions, HotPlugged, HotReplaced
from stratovirt.config.hot_replace import NET_SLOTS, InSlot
from stratovirt.config.hotplug import HotVirtio
from stratovirt.config.kinds import Identifier, Integer, OnOff, Reference
from stratovirt.config.options import opt
from stratovirt.virtio.net import Net

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.machine.hot_plug import HotPlug
    from stratovirt.machine.hot_replace import HotReplace


class HotCard(DeviceOptions):
    """Which card, while the machine runs."""

    netdev: str | None = opt(
        Reference("netdev_add"), default=None, help="id of the back end; the device's if missing"
    )


class PluggedNet(HotCard, HotVirtio, Sent, flag="device_add virtio-net-pci"):
    """A network card behind a root port."""

    mac: bytes | None = opt(MacAddress(), default=None, help="address of the card")
    mq: bool = opt(OnOff(), default=False, help="offer all queue pairs of the netdev")


class NetInSlot(HotCard, Sent, InSlot, flag="device_add virtio-net-mmio"):
    """A network card in a hot-replace slot."""

    id: str = opt(Identifier(), help="device name")
    addr: int = opt(Integer(0, NET_SLOTS - 1), help="slot")
    mac: bytes | None = opt(
        MacAddress(), default=None, help="address that a driver reads when it starts"
    )
    mq: bool = opt(OnOff(), default=False, help="the slot offers all queue pairs of the netdev")


def plug(options: PluggedNet, hot_plug: HotPlug) -> Net:
    """The card with its netdev."""
    iothread = hot_plug.iothread(options.iothread)
    netdevs, name = hot_plug.inventory.netdevs, options.netdev or options.id
    back_end = netdevs.take(name, options.id)
    try:
        pairs = back_end.pairs if options.mq else 1
        card = Net(options.id, pairs, options.mac, hot_plug.host, queue_size=options.queue_size)
    except Exception:
        netdevs.give_back(name, back_end)
        raise
    card.uses_kernel_interrupts = back_end.uses_kernel_interrupts
    card.connect(back_end, None, iothread)
    return card


def give_back(card: Net, hot_plug: HotPlug) -> None:
    """Return the card's netdev to the free ones."""
    back_end = card.disconnect()
    hot_plug.inventory.netdevs.give_back(back_end.netdev.id, back_end)


def adopt(card: Net, _slots: HotReplace) -> None:
    """Make a card of the command line one whose back end may be disconnected."""
    # A later back end may be vhost-net.
    card.uses_kernel_interrupts = True


def make_empty(name: str, slots: HotReplace) -> Net:
    """A card without a link."""
    card = Net(name, 1, None, slots.host)
    adopt(card, slots)
    return card


def connect(options: NetInSlot, card: Net, slots: HotReplace) -> None:
    """Give the card of a slot a back end; raises HotPlugError."""
    if card.back_end is not None:
        raise slots.refusal(f"net slot {options.addr} is taken by {card.name}")
    slots.check_ring(options, f"net slot {options.addr}", card)
    iothread = slots.iothread(options.iothread)
    netdevs, name = slots.inventory.netdevs, options.netdev or options.id
    back_end = netdevs.take(name, options.id)
    if back_end.pairs < card.pairs_most or (options.mq and back_end.pairs > card.pairs_most):
        netdevs.give_back(name, back_end)
        raise slots.refusal(
            f"{options.id}: net slot {options.addr} has {card.pairs_most} queue "
            f"pairs and the netdev {name} has {back_end.pairs}"
        )
    card.name = options.id
    card.connect(back_end, options.mac, iothread)


def disconnect(card: Net) -> None:
    """Complete the requests in flight and close the back end."""
    card.disconnect().close()


IN_SLOT = HotReplaced(
    NetInSlot,
    noun="net slot",
    count=NET_SLOTS,
    adopt=adopt,
    make_empty=make_empty,
    fill=connect,
    empty=disconnect,
)
BEHIND_PORT = HotPlugged(PluggedNet, plug, give_back)
