"""What a locked-down machine may have opened: what its monitors' clients have named, and no more.

The broker reads the clients' commands before the machine does, by the same code: a command that
the machine refuses for what it says names nothing.  What a command names is granted as it names
it, with mode and all, and until the machine has answered it.  A machine that a guest has taken
over can so ask for nothing that its manager does not ask for at that moment.
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
    """Kind, and what the broker asks about it: ("tap", "tap0", 2)."""

IMAGE, TAP, VHOST_NET, VFIO, UNIX, TCP, DRAFT = (
    "image", "tap", "vhost-net", "vfio", "unix", "tcp", "draft",
)  # fmt: skip
MOST_WAITING = 4096
"""Commands of one client that wait for their answers; of more the oldest grant nothing."""


class Named:
    """What one command names: to open `once` for it, and chardevs that come and go with it."""

    __slots__ = ("added", "once", "removed")

    def __init__(
        self,
        once: Iterable[Grant] = (),
        added: tuple[str, Grant] | None = None,
        removed: str | None = None,
    ) -> None:
        self.once, self.added, self.removed = list(once), added, removed


class Grants:
    """Of the command line: `standing` for as long as the machine lives, `chardevs` by their ids."""

    def __init__(
        self, standing: Iterable[Grant] = (), chardevs: Mapping[str, Grant] | None = None
    ) -> None:
        self._standing = set(standing)
        self._chardevs = dict(chardevs or {})
        self.witnesses: list[Witness] = []

    def take(self, *grant: object) -> bool:
        """Whether it may be opened now; what a command named once can be opened once."""
        if grant in self._standing or grant in self._chardevs.values():
            return True
        return any(witness.take(grant) for witness in self.witnesses)

    def settle(self, named: Named) -> None:
        """The command has done what it was for."""
        if named.added is not None:
            # A back end comes back whenever it likes, until its chardev is removed.
            self._chardevs[named.added[0]] = named.added[1]
        if named.removed is not None:
            self._chardevs.pop(named.removed, None)


class Witness:
    """Reads along with what the clients of one monitor send; `count` are the requests so far."""

    def __init__(self, grants: Grants) -> None:
        self._grants = grants
        self._framer = Framer()
        self._waiting: dict[int, Named] = {}
        self.count = 0
        grants.witnesses.append(self)

    def forget(self) -> None:
        """The client has gone, and what it asked for with it."""
        self._framer = Framer()
        self._waiting.clear()

    def read(self, received: bytes) -> None:
        """The client has sent this."""
        for frame in self._framer.feed(received):
            self.count += 1
            named = None if isinstance(frame, TooLong) else _named(frame)
            if named is not None:
                self._waiting[self.count] = named
                if len(self._waiting) > MOST_WAITING:
                    del self._waiting[min(self._waiting)]

    def answered(self, number: int, *, accepted: bool) -> None:
        """The machine has answered the request of this number, and all before it."""
        named = self._waiting.get(number)
        if named is not None and accepted:
            self._grants.settle(named)
        for other in [other for other in self._waiting if other <= number]:
            del self._waiting[other]

    def take(self, grant: Grant) -> bool:
        """Whether a command that waits names it, and it was not opened yet."""
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
        # The machine answers that.
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
