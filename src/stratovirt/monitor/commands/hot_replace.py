"""Addition and removal of back ends and devices while the machine runs."""

from __future__ import annotations

from stratovirt.config.chardev_add import ChardevAdd, ChardevRemove
from stratovirt.config.hot_replace import Blockdev
from stratovirt.config.hotplug import HOT_NETDEVS, IdArguments
from stratovirt.config.kinds import Identifier
from stratovirt.config.net import VhostUser
from stratovirt.config.options import Options, opt
from stratovirt.config.registry import HOT_DRIVERS
from stratovirt.machine.hot_plug import HotPlug
from stratovirt.machine.inventory import NotThereError
from stratovirt.monitor.later import Later
from stratovirt.monitor.registry import NoArguments, command
from stratovirt.qmp.errors import QmpError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from stratovirt.config.net import Tap
    from stratovirt.monitor.session import Session

    T = TypeVar("T")


class NodeArguments(Options):
    """Arguments that name a block node."""

    node_name: str = opt(Identifier(), help="its name")


def _slots(session: Session) -> HotPlug:
    slots = session.vm.machine.hot_plug
    if slots is None:
        raise QmpError("there is no machine that could take devices")
    return slots


def _named(action: Callable[[], T]) -> T:
    try:
        return action()
    except NotThereError as error:
        raise QmpError(str(error), "DeviceNotFound") from error


def _do(action: Callable[[], None]) -> object:
    _named(action)
    return {}


@command("blockdev-add", Blockdev)
def blockdev_add(session: Session, arguments: Blockdev) -> object:
    """Open an image for a later device_add."""
    return _do(lambda: _slots(session).add_image(arguments))


@command("blockdev-del", NodeArguments)
def blockdev_del(session: Session, arguments: NodeArguments) -> object:
    """Close an image that no device uses."""
    return _do(lambda: _slots(session).inventory.nodes.remove(arguments.node_name))


@command("chardev-add", ChardevAdd)
def chardev_add(session: Session, arguments: ChardevAdd) -> object:
    """Name a socket for a later netdev_add of type vhost-user."""
    return _do(lambda: _slots(session).inventory.chardevs.add(arguments.chardev))


@command("chardev-remove", ChardevRemove)
def chardev_remove(session: Session, arguments: ChardevRemove) -> object:
    """Forget a socket that no netdev uses."""
    return _do(lambda: _slots(session).inventory.chardevs.remove(arguments.id))


@command("netdev_add", HOT_NETDEVS)
def netdev_add(session: Session, arguments: Tap | VhostUser) -> object:
    """Open a tap for a later device_add; fd and its kin are names that getfd gave.

    Or connect to the vhost-user back end at a chardev.
    """
    slots = _slots(session)
    if isinstance(arguments, VhostUser):
        return _meet(slots, arguments)
    # A refused request takes no descriptors; a failed one closes all it has taken.
    slots.inventory.netdevs.check_new(arguments.id)
    fields = ("fd", "fds", "vhostfd", "vhostfds")
    names = [name for field in fields for name in getattr(arguments, field)]
    numbers = map(str, session.take_descriptors(names))
    taken = {field: tuple(next(numbers) for _ in getattr(arguments, field)) for field in fields}
    return _do(lambda: slots.add_tap(arguments.replace(**taken)))


def _meet(slots: HotPlug, netdev: VhostUser) -> Later:
    # The peer may take seconds to answer, or not be a vhost-user back end.
    back_end = _named(lambda: slots.begin_back_end(netdev))
    return Later(back_end.meet, lambda peer: _do(lambda: slots.end_back_end(back_end, peer)))


@command("netdev_del", IdArguments)
def netdev_del(session: Session, arguments: IdArguments) -> object:
    """Close a tap, or leave a vhost-user back end, that no device uses."""
    return _do(lambda: _slots(session).remove_back_end(arguments.id))


@command("device_add", HOT_DRIVERS)
def device_add(session: Session, arguments: Options) -> object:
    """Fill a hot-replace slot, or the slot of a root port, with a disk or a network card."""
    return _do(lambda: _slots(session).plug(arguments))


@command("device_del", IdArguments)
def device_del(session: Session, arguments: IdArguments) -> object:
    """Remove a device, once the guest has let go of it; DEVICE_DELETED follows."""
    return _do(lambda: _slots(session).unplug(arguments.id))


@command("announce-self", NoArguments)
def announce_self(session: Session, _arguments: NoArguments) -> object:
    """Have the guest tell its networks where it is."""
    for card in session.vm.machine.cards:
        card.announce()
    return {}
