"""The inventory: a machine's block nodes, netdevs, chardevs, objects and devices by id.

It begins with those of the configuration, which stays as the user wrote it; the commands of a
monitor add and remove others.  An id is unique among the things of its kind.
"""

from __future__ import annotations

from stratovirt.config.kinds import Reference
from stratovirt.errors import StratovirtError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, Generic, TypeVar

    from stratovirt.block.image import Image
    from stratovirt.chardev.backend import Chardev as OpenChardev
    from stratovirt.config.chardev import Chardev
    from stratovirt.config.vm_config import VmConfig
    from stratovirt.net.back_end import BackEnd
    from stratovirt.runtime.io_thread import IoThread

    T = TypeVar("T", Image, BackEnd)

    class KindOf(Generic[T]):
        """Generic base of BackEnds for type checkers."""
else:

    class KindOf:
        """Generic base of BackEnds at run time, without the import of typing."""

        def __class_getitem__(cls, _item: object) -> type:
            return cls


PERIPHERAL, ANONYMOUS = "/machine/peripheral", "/machine/peripheral-anon"
"""Paths in the object tree of devices with and without an id."""
MOST_REMEMBERED = 1024
"""Most names of back ends closed with their devices that are kept; the oldest is dropped."""


class HotPlugError(StratovirtError):
    """A back end or device cannot be added or removed; the text names the command."""


class NotThereError(HotPlugError):
    """No back end or device has this name."""


def _path(name: str) -> str:
    return f"{PERIPHERAL}/{name}"


class Device:
    """A device, with its `path` in the object tree; `is_added` if it is not from the start."""

    def __init__(self, options: Any, path: str, *, is_added: bool) -> None:
        self.options, self.path, self.is_added = options, path, is_added
        self.asked_ns: int | None = None
        """When the guest was asked to release it, by the machine's clock."""

    @property
    def key(self) -> str:
        """Its id, or its path if it has none."""
        return self.path if self.options.id is None else str(self.options.id)

    @property
    def label(self) -> str:
        """Its id, or the option that made it."""
        name: str = self.options.id or self.options.flag
        return name

    @property
    def is_leaving(self) -> bool:
        """Whether the guest was asked to release it and has not yet."""
        return self.asked_ns is not None


class Devices:
    """The devices by key, in the order of the command line and of their addition."""

    def __init__(self, options: Iterable[Any]) -> None:
        self._by_key: dict[str, Device] = {}
        for number, given in enumerate(options):
            path = f"{ANONYMOUS}/device[{number}]" if given.id is None else _path(given.id)
            self._put(Device(given, path, is_added=False))

    def _put(self, device: Device) -> None:
        self._by_key[device.key] = device

    def __iter__(self) -> Iterator[Device]:
        return iter(self._by_key.values())

    def get(self, key: str) -> Device | None:
        """The device with this key, if there is one."""
        return self._by_key.get(key)

    def of(self, options: Any) -> Device:
        """The device that was made from these options."""
        return next(device for device in self if device.options is options)

    def check_new(self, name: str) -> None:
        """Raise HotPlugError when a device has this id."""
        if name in self._by_key:
            raise HotPlugError(f"device_add: another device has the id {name}")

    def add(self, options: Any) -> None:
        """Record a device that device_add has made."""
        self._put(Device(options, _path(options.id), is_added=True))

    def remove(self, key: str) -> None:
        """Drop the record of a device that is no more."""
        del self._by_key[key]


class BackEnds(KindOf["T"]):
    """Back ends of one kind by id: free, used by a device, or closed with their device.

    A free one was opened by a command and is held here.
    """

    def __init__(self, devices: Devices, noun: str, word: str, add: str, remove: str) -> None:
        self._devices = devices
        self._noun, self._word = noun, word
        self._add, self._remove = add, remove
        self._free: dict[str, T] = {}
        self._users: dict[str, str] = {}
        """The keys of the devices that use back ends."""
        self._coming: set[str] = set()
        self._gone: dict[str, None] = {}

    @property
    def free(self) -> list[T]:
        """Those that no device uses."""
        return list(self._free.values())

    def check_new(self, name: str) -> None:
        """Raise HotPlugError when a back end has this id."""
        if name in self._free or name in self._users or name in self._coming:
            raise HotPlugError(f"{self._add}: another {self._noun} has the {self._word} {name}")

    def reserve(self, name: str) -> None:
        """Keep the id for a back end whose peer is being connected; `add` or `cancel` follows."""
        self.check_new(name)
        self._coming.add(name)

    def cancel(self, name: str) -> None:
        """End a reservation: there is no such back end."""
        self._coming.discard(name)

    def add(self, name: str, back_end: T) -> None:
        """Hold an open back end with a new or reserved id."""
        self._coming.discard(name)
        self._gone.pop(name, None)
        self._free[name] = back_end

    def used_from_the_start(self, name: str, user: str) -> None:
        """Record a back end of the command line, which the device with the key `user` opens."""
        self._users[name] = user

    def take(self, name: str, user: str) -> T:
        """Take a free back end out for the device `user` of a device_add; raises HotPlugError."""
        back_end = self._take(name, "device_add")
        self._users[name] = user
        return back_end

    def give_back(self, name: str, back_end: T) -> None:
        """Hold a back end again that a device has given back."""
        del self._users[name]
        self._free[name] = back_end

    def remove(self, name: str) -> None:
        """Close a free back end, or forget one closed with its device; raises HotPlugError."""
        if name in self._gone:
            del self._gone[name]
        else:
            self._take(name, self._remove).close()

    def _take(self, name: str, command: str) -> T:
        if name in self._users:
            user = self._devices.get(self._users[name])
            label = user.label if user is not None else self._users[name]
            leaving = user is not None and user.is_leaving
            raise HotPlugError(
                f"{command}: the {self._noun} {name} is in use by {label}"
                + (", which the guest was asked to let go of" if leaving else "")
            )
        if name not in self._free:
            raise NotThereError(f"{command}: there is no {self._noun} {name}")
        return self._free.pop(name)

    def closed_with(self, user: str) -> None:
        """Remember what a device has not given back, so that its removal is no error."""
        for name in [name for name, key in self._users.items() if key == user]:
            del self._users[name]
            self._gone[name] = None
            if len(self._gone) > MOST_REMEMBERED:
                del self._gone[next(iter(self._gone))]

    def close(self) -> None:
        """Close the free back ends."""
        for back_end in self._free.values():
            back_end.close()
        self._free.clear()


class Chardevs:
    """The chardevs by id; those for vhost-user back ends with the netdevs that use each.

    `opened` are those that this process serves itself, monitors' and the serial port's among them.
    """

    def __init__(self, config: VmConfig) -> None:
        self.opened: list[OpenChardev] = []
        self._by_id: dict[str, Chardev] = dict(config.chardevs)
        self._users: dict[str, set[str]] = {}
        for netdev in config.netdevs.values():
            if "chardev" in netdev.fields:
                self._users.setdefault(netdev.chardev, set()).add(netdev.id)

    def add(self, chardev: Chardev) -> None:
        """Record a chardev for back ends; raises HotPlugError."""
        if chardev.id in self._by_id:
            raise HotPlugError(f"chardev-add: another chardev has the id {chardev.id}")
        self._by_id[chardev.id] = chardev
        self._users[chardev.id] = set()

    def remove(self, name: str) -> None:
        """Drop a chardev for back ends that no netdev uses; raises HotPlugError."""
        if name not in self._users:
            raise NotThereError(f"chardev-remove: there is no chardev {name} for a back end")
        users = self._users[name]
        if users:
            raise HotPlugError(f"chardev-remove: the chardev {name} is in use by {min(users)}")
        del self._users[name], self._by_id[name]

    def for_back_end(self, name: str) -> Chardev:
        """The chardev for back ends with this id; raises NotThereError."""
        if name not in self._users:
            raise NotThereError(
                f"netdev_add: there is no chardev {name} for a back end (chardev-add)"
            )
        return self._by_id[name]

    def use(self, name: str, netdev: str) -> None:
        """Record that a netdev uses a chardev."""
        self._users[name].add(netdev)

    def release(self, netdev: str) -> None:
        """Record that a netdev is no more."""
        for users in self._users.values():
            users.discard(netdev)


class Inventory:
    """All that a machine has by id; no command adds objects, so they stay those of the start."""

    def __init__(self, config: VmConfig) -> None:
        self.devices = devices = Devices(config.devices)
        self.nodes: BackEnds[Image] = BackEnds(
            devices, "block node", "name", "blockdev-add", "blockdev-del"
        )
        self.netdevs: BackEnds[BackEnd] = BackEnds(
            devices, "netdev", "id", "netdev_add", "netdev_del"
        )
        self.chardevs = Chardevs(config)
        self.iothreads: dict[str, IoThread] = {}
        """The running threads of the objects of this kind."""
        back_ends: dict[str, BackEnds[Any]] = {"-drive": self.nodes, "-netdev": self.netdevs}
        for device in devices:
            for field in device.options.fields.values():
                name = getattr(device.options, field.name)
                if isinstance(field.kind, Reference) and field.kind.flag in back_ends and name:
                    back_ends[field.kind.flag].used_from_the_start(name, device.key)

    def remove_device(self, device: Device) -> None:
        """Drop a device that is no more, and its back ends that were closed with it."""
        self.devices.remove(device.key)
        self.nodes.closed_with(device.key)
        self.netdevs.closed_with(device.key)

    def close(self) -> None:
        """Close the free back ends; the devices were closed before."""
        self.nodes.close()
        self.netdevs.close()
