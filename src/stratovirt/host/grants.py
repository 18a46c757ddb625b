"""Grants: the files and addresses that the broker may open for a locked-down machine.

The broker parses the clients' commands before the machine does, with the same code: a command
with invalid arguments grants nothing.  A command grants the names in its arguments, with their
mode, until the machine has answered it.  A machine that a guest has taken over can therefore open
only files that its manager names at that moment.
"""

from __future__ import annotations

from stratovirt.config.errors import ConfigError
from stratovirt.qmp.errors import QmpError
from stratovirt.qmp.framing import Framer, TooLong
from stratovirt.qmp.request import command_of, decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    Grant = tuple[object, ...]
    """Kind and the parameters checked by the broker: ("tap", "tap0", 2)."""

IMAGE, TAP, VHOST_NET, VFIO, UNIX, TCP, DRAFT = (
    "image", "tap", "vhost-net", "vfio", "unix", "tcp", "draft",
)  # fmt: skip
MOST_WAITING = 4096
"""Most unanswered commands of one client with grants; beyond it the oldest grants expire."""


class Named:
    """The grants of one command: to open `once`, and a chardev `added` or `removed` by it."""

    __slots__ = ("added", "once", "removed")

    def __init__(
        self,
        once: Iterable[Grant] = (),
        added: tuple[str, Grant] | None = None,
        removed: str | None = None,
    ) -> None:
        self.once, self.added, self.removed = list(once), added, removed


class Grants:
    """All grants; from the command line `standing` ones for good, and `chardevs` by id."""

    def __init__(
        self, standing: Iterable[Grant] = (), chardevs: Mapping[str, Grant] | None = None
    ) -> None:
        self._standing = set(standing)
        self._chardevs = dict(chardevs or {})
        self.witnesses: list[Witness] = []

    def take(self, *grant: object) -> bool:
        """Whether `grant` is held; uses up a grant of a command."""
        if grant in self._standing or grant in self._chardevs.values():
            return True
        return any(witness.take(grant) for witness in self.witnesses)

    def settle(self, named: Named) -> None:
        """Apply the chardev changes of a command that has succeeded."""
        if named.added is not None:
            # The back end may reconnect at any time until its chardev is removed.
            self._chardevs[named.added[0]] = named.added[1]
        if named.removed is not None:
            self._chardevs.pop(named.removed, None)


class Witness:
    """Parses the requests of one monitor's clients for grants; `count` is their number so far."""

    def __init__(self, grants: Grants) -> None:
        self._grants = grants
        self._framer = Framer()
        self._waiting: dict[int, Named] = {}
        self.count = 0
        grants.witnesses.append(self)

    def forget(self) -> None:
        """Drop the grants of a client that has disconnected."""
        self._framer = Framer()
        self._waiting.clear()

    def read(self, received: bytes) -> None:
        """Parse bytes that the client has sent."""
        for frame in self._framer.feed(received):
            self.count += 1
            named = None if isinstance(frame, TooLong) else _named(frame)
            if named is not None:
                self._waiting[self.count] = named
                if len(self._waiting) > MOST_WAITING:
                    del self._waiting[min(self._waiting)]

    def answered(self, number: int, *, accepted: bool) -> None:
        """End the grants of request `number` and those before it: the machine has answered them."""
        named = self._waiting.get(number)
        if named is not None and accepted:
            self._grants.settle(named)
        for other in [other for other in self._waiting if other <= number]:
            del self._waiting[other]

    def take(self, grant: Grant) -> bool:
        """Use up a grant of an unanswered command; False if there is none."""
        for named in self._waiting.values():
            if grant in named.once:
                named.once.remove(grant)
                return True
        return False


def _named(frame: bytes) -> Named | None:
    try:
        name, arguments = command_of(decode(frame))
        return NAMING[name](arguments) if name in NAMING else None
    except (QmpError, ConfigError):
        # The machine replies with the error.
        return None


def _image(arguments: dict[str, object]) -> Named:
    from stratovirt.config.hot_replace import Blockdev

    node = Blockdev.from_json(arguments, "blockdev-add")
    return Named([(IMAGE, node.file.filename, node.read_only, node.cache.direct)])


def _netdev(arguments: dict[str, object]) -> Named:
    from stratovirt.config.hotplug import HOT_NETDEVS
    from stratovirt.config.net import Tap

    netdev = HOT_NETDEVS.from_json(arguments, "netdev_add")
    if not isinstance(netdev, Tap):
        return Named()
    queues = len(netdev.fd or netdev.fds)
    grants: list[Grant] = []
    if netdev.ifname is not None:
        queues = netdev.queues or 1
        grants.append((TAP, netdev.ifname, queues))
    if netdev.vhost and not (netdev.vhostfd or netdev.vhostfds):
        grants += [(VHOST_NET,)] * queues
    return Named(grants)


def _chardev(arguments: dict[str, object]) -> Named:
    from stratovirt.config.chardev_add import ChardevAdd

    chardev = ChardevAdd.from_json(arguments, "chardev-add").chardev
    return Named(added=(chardev.id, (UNIX, chardev.path)))


def _chardev_goes(arguments: dict[str, object]) -> Named:
    from stratovirt.config.hotplug import IdArguments

    return Named(removed=IdArguments.from_json(arguments, "chardev-remove").id)


def _device(arguments: dict[str, object]) -> Named:
    from stratovirt.config.hotplug import HOT_DRIVERS, HotVfio

    device = HOT_DRIVERS.from_json(arguments, "device_add")
    return Named([(VFIO, device.host)] if isinstance(device, HotVfio) else [])


def _snapshot(arguments: dict[str, object]) -> Named:
    from stratovirt.config.process import Migrate

    return Named([(DRAFT, Migrate.from_json(arguments, "migrate").place)])


NAMING: dict[str, Callable[[dict[str, object]], Named]] = {
    "blockdev-add": _image,
    "netdev_add": _netdev,
    "chardev-add": _chardev,
    "chardev-remove": _chardev_goes,
    "device_add": _device,
    "migrate": _snapshot,
}
