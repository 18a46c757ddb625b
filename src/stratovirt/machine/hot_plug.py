"""Back ends that QMP makes while a machine runs, and the contract of what they are plugged into.

Back ends (block nodes, netdevs) are made and removed on their own; while a device has one, it is
the device's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from stratovirt.block.image import Image
from stratovirt.config.drive import Drive
from stratovirt.config.hot_replace import Blockdev
from stratovirt.config.net import VhostUser
from stratovirt.devices.device_host import DeviceHost
from stratovirt.errors import StratovirtError
from stratovirt.net.back_end import BackEnd, TapBackEnd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Generic, TypeVar

    from stratovirt.config.chardev import SocketChardev
    from stratovirt.config.net import Tap
    from stratovirt.net.vhost_user import VhostUserBackEnd
    from stratovirt.runtime.io_thread import IoThread
    from stratovirt.vhost.user import VhostUser as VhostUserPeer

    T = TypeVar("T", Image, BackEnd)

    class PoolOf(Generic[T]):
        """Typing face of Pool."""
else:

    class PoolOf:
        """Subscriptable at run time without typing's cost."""

        def __class_getitem__(cls, _item: object) -> type:
            return cls


class HotPlugError(StratovirtError):
    """It cannot be added or removed now; the text names the command."""


class NotThereError(HotPlugError):
    """Nothing has this name."""


MOST_REMEMBERED = 1024
"""Names of back ends that went with their devices; the oldest is forgotten."""


class Pool(PoolOf["T"]):
    """Back ends of one kind by name: free, or some device's, or gone with its device."""

    def __init__(self, noun: str) -> None:
        self.free: dict[str, T] = {}
        self._users: dict[str, str] = {}
        self._gone: dict[str, None] = {}
        self._noun = noun

    def __contains__(self, name: str) -> bool:
        return name in self.free or name in self._users

    def take(self, name: str, user: str, command: str) -> T:
        """Give the back end to a device, or to nobody; raises HotPlugError."""
        if name in self._users:
            raise HotPlugError(
                f"{command}: the {self._noun} {name} is in use by {self._users[name]}"
            )
        if name not in self.free:
            raise NotThereError(f"{command}: there is no {self._noun} {name}")
        if user:
            self._users[name] = user
        return self.free.pop(name)

    def give_back(self, name: str, back_end: T) -> None:
        """The device does not use it any more."""
        self._users.pop(name, None)
        self.free[name] = back_end

    def went(self, name: str) -> None:
        """The back end was closed with its device; to remove it is no mistake."""
        self._users.pop(name, None)
        self._gone[name] = None
        if len(self._gone) > MOST_REMEMBERED:
            del self._gone[next(iter(self._gone))]

    def forget(self, name: str) -> bool:
        """Whether the back end went with its device; that is told once."""
        return name not in self and self._gone.pop(name, self) is None

    def close(self) -> None:
        """Close what no device has."""
        for back_end in self.free.values():
            back_end.close()
        self.free.clear()


class HotPlug(ABC):
    """What can be added to a running machine and removed from it."""

    def __init__(self, host: DeviceHost) -> None:
        self.host = host
        self.images: Pool[Image] = Pool("block node")
        self.netdevs: Pool[BackEnd] = Pool("netdev")
        self._coming: set[str] = set()
        """Netdevs whose peers are being met."""
        self.plugged: dict[str, Any] = {}
        """The options of what was added, by device id."""
        self._sockets: dict[str, set[str]] = {}
        """The chardevs that name a back end's socket, and the netdevs of each."""
        for netdev in host.config.netdevs.values():
            if isinstance(netdev, VhostUser):
                self._sockets.setdefault(netdev.chardev, set()).add(netdev.id)

    @abstractmethod
    def plug(self, options: Any) -> None:
        """Add a device; raises StratovirtError."""

    @abstractmethod
    def unplug(self, name: str) -> None:
        """Remove a device that was added, now or as soon as the guest lets go of it.

        DEVICE_DELETED tells when it is gone.  Raises HotPlugError.
        """

    def close(self) -> None:
        """Give back what no device has; the devices were closed before."""
        self.images.close()
        self.netdevs.close()

    def add_image(self, node: Blockdev) -> None:
        """Open a block node; raises StratovirtError."""
        name = node.node_name
        if name in self.images or name in self.host.config.drives:
            raise HotPlugError(f"blockdev-add: another block node has the name {name}")
        drive = Drive(
            id=name,
            file=node.file.filename,
            readonly=node.read_only,
            direct=node.cache.direct,
            throttling_iops_total=node.iops_total,
        )
        uses_uring = node.file.aio in ("io_uring", "native")
        self.images.free[name] = Image(
            drive,
            self.host.access,
            f"blockdev-add node-name={name}",
            uses_uring=uses_uring,
        )

    def remove_image(self, name: str) -> None:
        """Close a block node that no device has; raises HotPlugError."""
        if not self.images.forget(name):
            self._refuse_used("blockdev-del", "block node", "drive", name)
            self.images.take(name, "", "blockdev-del").close()

    def add_chardev(self, chardev: SocketChardev) -> None:
        """Name a socket for a back end; raises HotPlugError."""
        if chardev.id in self.host.config.chardevs:
            raise HotPlugError(f"chardev-add: another chardev has the id {chardev.id}")
        self.host.config.chardevs[chardev.id] = chardev
        self._sockets[chardev.id] = set()

    def remove_chardev(self, name: str) -> None:
        """Forget a socket that no netdev uses; raises HotPlugError."""
        if name not in self._sockets:
            raise NotThereError(f"chardev-remove: there is no chardev {name} for a back end")
        users = self._sockets[name]
        if users:
            raise HotPlugError(f"chardev-remove: the chardev {name} is in use by {min(users)}")
        del self._sockets[name], self.host.config.chardevs[name]

    def check_new_back_end(self, name: str) -> None:
        """Raise HotPlugError when a netdev has this id."""
        if name in self.netdevs or name in self.host.config.netdevs or name in self._coming:
            raise HotPlugError(f"netdev_add: another netdev has the id {name}")

    def add_tap(self, netdev: Tap) -> None:
        """Open a tap; raises StratovirtError."""
        self.check_new_back_end(netdev.id)
        self.netdevs.free[netdev.id] = TapBackEnd(netdev, self.host.access)

    def begin_back_end(self, netdev: VhostUser) -> VhostUserBackEnd:
        """Promise the name to a back end that its peer is still to be met for.

        `end_back_end` follows.  Raises StratovirtError.
        """
        self.check_new_back_end(netdev.id)
        back_end = self.make_back_end(netdev)
        self._coming.add(netdev.id)
        self._sockets[netdev.chardev].add(netdev.id)
        return back_end

    def end_back_end(self, back_end: VhostUserBackEnd, meet: Callable[[], VhostUserPeer]) -> None:
        """Have the back end, if `meet` gives a peer that can be used; raises StratovirtError."""
        name = back_end.netdev.id
        self._coming.discard(name)
        try:
            back_end.begin(meet())
        except Exception:
            self._sockets[back_end.netdev.chardev].discard(name)
            raise
        self.netdevs.free[name] = back_end

    @abstractmethod
    def make_back_end(self, netdev: VhostUser) -> VhostUserBackEnd:
        """One that is not connected yet, where the machine can use it; raises StratovirtError."""

    def remove_back_end(self, name: str) -> None:
        """Close what no device has; raises HotPlugError."""
        if not self.netdevs.forget(name):
            self._refuse_used("netdev_del", "netdev", "netdev", name)
            self.netdevs.take(name, "", "netdev_del").close()
        for users in self._sockets.values():
            users.discard(name)

    def _refuse_used(self, command: str, noun: str, key: str, name: str) -> None:
        """Raise HotPlugError when a device uses the back end, from the start or by device_add."""
        for options in (*self.host.config.devices, *self.plugged.values()):
            if key in options.fields and (getattr(options, key) or options.id) == name:
                leaving = options.id is not None and self.is_leaving(options.id)
                raise HotPlugError(
                    f"{command}: the {noun} {name} is in use by {options.id or options.flag}"
                    + (", which the guest was asked to let go of" if leaving else "")
                )

    def is_leaving(self, _name: str) -> bool:
        """Whether a device was asked to go and is still there."""
        return False

    def check_new(self, name: str) -> None:
        """Raise HotPlugError when a device has this id."""
        if name in self.plugged or any(d.id == name for d in self.host.config.devices):
            raise HotPlugError(f"device_add: another device has the id {name}")

    def find(self, name: str) -> Any:
        """The options of a device that was added; raises HotPlugError."""
        if name in self.plugged:
            return self.plugged[name]
        if any(device.id == name for device in self.host.config.devices):
            raise HotPlugError(f"device_del: {name} is there from the start and cannot be removed")
        raise NotThereError(f"Device '{name}' not found")

    def removed(self, name: str) -> None:
        """Forget a device that is gone, and tell managers."""
        if self.plugged.pop(name, None) is None and not self._forget_from_the_start(name):
            return
        self.host.send_event(
            "DEVICE_DELETED", {"device": name, "path": f"/machine/peripheral/{name}"}
        )

    def _forget_from_the_start(self, name: str) -> bool:
        """Forget a device of the command line and its back end, which was closed with it.

        One without an id, which went with its slot, is nobody's to hear of.
        """
        config = self.host.config
        options = next((options for options in config.devices if options.id == name), None)
        if options is None:
            return False
        config.devices = [other for other in config.devices if other is not options]
        if "drive" in options.fields:
            config.drives.pop(options.drive, None)
            self.images.went(options.drive)
        if "netdev" in options.fields:
            config.netdevs.pop(options.netdev, None)
            self.netdevs.went(options.netdev)
        return True

    def iothread(self, name: str | None) -> IoThread | None:
        """The thread with this id; raises NotThereError."""
        try:
            return self.host.iothread(name)
        except KeyError:
            raise NotThereError(f"device_add: no -object iothread has the id {name}") from None
