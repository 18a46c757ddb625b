"""Back ends that QMP creates while a machine runs, and the interface of hotplug on a board.

Back ends (block nodes, netdevs) are created and removed separately from devices; while a device
uses one, the device owns it.
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
        """Generic base of Pool for type checkers."""
else:

    class PoolOf:
        """Generic base of Pool at run time, without the import of typing."""

        def __class_getitem__(cls, _item: object) -> type:
            return cls


class HotPlugError(StratovirtError):
    """A back end or device cannot be added or removed; the text names the command."""


class NotThereError(HotPlugError):
    """No back end or device has this name."""


MOST_REMEMBERED = 1024
"""Most names of back ends closed with their devices that a pool keeps; the oldest is dropped."""


class Pool(PoolOf["T"]):
    """Back ends of one kind by name: free, owned by a device, or closed with their device."""

    def __init__(self, noun: str) -> None:
        self.free: dict[str, T] = {}
        self._users: dict[str, str] = {}
        self._gone: dict[str, None] = {}
        self._noun = noun

    def __contains__(self, name: str) -> bool:
        return name in self.free or name in self._users

    def take(self, name: str, user: str, command: str) -> T:
        """Take a free back end out, for device `user` unless empty; raises HotPlugError."""
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
        """Return a back end of a device to the free ones."""
        self._users.pop(name, None)
        self.free[name] = back_end

    def went(self, name: str) -> None:
        """Record that a back end was closed with its device, so that removing it is no error."""
        self._users.pop(name, None)
        self._gone[name] = None
        if len(self._gone) > MOST_REMEMBERED:
            del self._gone[next(iter(self._gone))]

    def forget(self, name: str) -> bool:
        """Whether the back end was closed with its device; true once for each name."""
        return name not in self and self._gone.pop(name, self) is None

    def close(self) -> None:
        """Close the free back ends."""
        for back_end in self.free.values():
            back_end.close()
        self.free.clear()


class HotPlug(ABC):
    """Adds back ends and devices to a running machine and removes them."""

    def __init__(self, host: DeviceHost) -> None:
        self.host = host
        self.images: Pool[Image] = Pool("block node")
        self.netdevs: Pool[BackEnd] = Pool("netdev")
        self._coming: set[str] = set()
        """Netdevs whose vhost-user peers are being connected."""
        self.plugged: dict[str, Any] = {}
        """The options of added devices, by id."""
        self._sockets: dict[str, set[str]] = {}
        """The chardevs of vhost-user back ends, with the netdevs of each."""
        for netdev in host.config.netdevs.values():
            if isinstance(netdev, VhostUser):
                self._sockets.setdefault(netdev.chardev, set()).add(netdev.id)

    @abstractmethod
    def plug(self, options: Any) -> None:
        """Add a device; raises StratovirtError."""

    @abstractmethod
    def unplug(self, name: str) -> None:
        """Remove an added device, now or when the guest has released it.

        The event DEVICE_DELETED follows its removal.  Raises HotPlugError.
        """

    def close(self) -> None:
        """Close the free back ends; the devices were closed before."""
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
        """Close a block node that no device uses; raises HotPlugError."""
        if not self.images.forget(name):
            self._refuse_used("blockdev-del", "block node", "drive", name)
            self.images.take(name, "", "blockdev-del").close()

    def add_chardev(self, chardev: SocketChardev) -> None:
        """Register the socket of a back end; raises HotPlugError."""
        if chardev.id in self.host.config.chardevs:
            raise HotPlugError(f"chardev-add: another chardev has the id {chardev.id}")
        self.host.config.chardevs[chardev.id] = chardev
        self._sockets[chardev.id] = set()

    def remove_chardev(self, name: str) -> None:
        """Unregister a socket that no netdev uses; raises HotPlugError."""
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
        """Reserve the netdev's id and create its back end, whose peer is not connected yet.

        `end_back_end` follows.  Raises StratovirtError.
        """
        self.check_new_back_end(netdev.id)
        back_end = self.make_back_end(netdev)
        self._coming.add(netdev.id)
        self._sockets[netdev.chardev].add(netdev.id)
        return back_end

    def end_back_end(self, back_end: VhostUserBackEnd, meet: Callable[[], VhostUserPeer]) -> None:
        """Add the back end with the peer that `meet` returns; raises StratovirtError."""
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
        """Create a back end that is not connected yet; raises StratovirtError if unsupported."""

    def remove_back_end(self, name: str) -> None:
        """Close a netdev that no device uses; raises HotPlugError."""
        if not self.netdevs.forget(name):
            self._refuse_used("netdev_del", "netdev", "netdev", name)
            self.netdevs.take(name, "", "netdev_del").close()
        for users in self._sockets.values():
            users.discard(name)

    def _refuse_used(self, command: str, noun: str, key: str, name: str) -> None:
        """Raise HotPlugError if a device of the command line or of device_add uses the back end."""
        for options in (*self.host.config.devices, *self.plugged.values()):
            if key in options.fields and (getattr(options, key) or options.id) == name:
                leaving = options.id is not None and self.is_leaving(options.id)
                raise HotPlugError(
                    f"{command}: the {noun} {name} is in use by {options.id or options.flag}"
                    + (", which the guest was asked to let go of" if leaving else "")
                )

    def is_leaving(self, _name: str) -> bool:
        """Whether the guest was asked to release a device and has not yet."""
        return False

    def check_new(self, name: str) -> None:
        """Raise HotPlugError when a device has this id."""
        if name in self.plugged or any(d.id == name for d in self.host.config.devices):
            raise HotPlugError(f"device_add: another device has the id {name}")

    def find(self, name: str) -> Any:
        """The options of an added device; raises HotPlugError."""
        if name in self.plugged:
            return self.plugged[name]
        if any(device.id == name for device in self.host.config.devices):
            raise HotPlugError(f"device_del: {name} is there from the start and cannot be removed")
        raise NotThereError(f"Device '{name}' not found")

    def removed(self, name: str) -> None:
        """Drop the record of a removed device and send DEVICE_DELETED."""
        if self.plugged.pop(name, None) is None and not self._forget_from_the_start(name):
            return
        self.host.send_event(
            "DEVICE_DELETED", {"device": name, "path": f"/machine/peripheral/{name}"}
        )

    def _forget_from_the_start(self, name: str) -> bool:
        """Drop a device of the command line and its back end, which was closed with it.

        False for a device without an id, which causes no event.
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
