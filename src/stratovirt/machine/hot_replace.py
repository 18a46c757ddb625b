"""Hot-replace: slots of a board without hotplug, whose media and cables come and go.

A slot is a virtio device from the start, a disk without a medium or a card without a link, so the
guest's stock driver needs no help to notice what is put in.  Back ends (block nodes, netdevs) are
made and removed on their own; while a device has one, it is the device's.
"""

from __future__ import annotations

from stratovirt.block.image import Image
from stratovirt.config.drive import Drive
from stratovirt.config.hot_replace import BLOCK_SLOTS, NET_SLOTS, Blockdev, HotBlk, HotNet
from stratovirt.config.net import Tap
from stratovirt.errors import StratovirtError
from stratovirt.machine.device_host import DeviceHost
from stratovirt.net.back_end import NetBackEnd
from stratovirt.runtime.io_thread import IoThread
from stratovirt.virtio.blk import Blk
from stratovirt.virtio.device import VirtioDevice
from stratovirt.virtio.net import Net

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    T = TypeVar("T", Image, NetBackEnd)


class HotReplaceError(StratovirtError):
    """It cannot be added or removed now; the text names the command."""


class NotThereError(HotReplaceError):
    """Nothing has this name."""


class HotReplace:
    """Four disks and two cards, and the back ends that QMP has made."""

    def __init__(self, host: DeviceHost) -> None:
        self._host = host
        self._idle_thread = IoThread()
        self.disks = [
            Blk(f"block slot {slot}", 1, host, self._idle_thread) for slot in range(BLOCK_SLOTS)
        ]
        self.cards = [Net(f"net slot {slot}", 1, None, host) for slot in range(NET_SLOTS)]
        for card in self.cards:
            # A cable may turn out to be vhost-net's.
            card.uses_kernel_interrupts = True
        self.images: dict[str, Image] = {}
        """Block nodes that no device has, by node-name."""
        self._back_ends: dict[str, NetBackEnd] = {}
        self.plugged: dict[str, HotBlk | HotNet] = {}
        """What is in the slots, by device id."""

    @property
    def devices(self) -> list[VirtioDevice]:
        """One for each slot."""
        return [*self.disks, *self.cards]

    def close(self) -> None:
        """Give back what no device has; the devices were closed before."""
        self._idle_thread.close()
        for image in self.images.values():
            image.close()
        for back_end in self._back_ends.values():
            back_end.close()

    def add_image(self, node: Blockdev) -> None:
        """Open a block node; raises StratovirtError."""
        name = node.node_name
        taken = name in self.images or self._user_of_image(name) is not None
        if taken or name in self._host.config.drives:
            raise HotReplaceError(f"blockdev-add: another block node has the name {name}")
        drive = Drive(
            id=name,
            file=node.file.filename,
            readonly=node.read_only,
            direct=node.cache.direct,
            throttling_iops_total=node.iops_total,
        )
        uses_uring = node.file.aio in ("io_uring", "native")
        self.images[name] = Image(drive, f"blockdev-add node-name={name}", uses_uring=uses_uring)

    def remove_image(self, name: str) -> None:
        """Close a block node that no device has; raises HotReplaceError."""
        _take(self.images, name, "blockdev-del", "block node", self._user_of_image(name)).close()

    def add_back_end(self, netdev: Tap) -> None:
        """Open a tap; raises StratovirtError."""
        name = netdev.id
        taken = name in self._back_ends or self._user_of_netdev(name) is not None
        if taken or name in self._host.config.netdevs:
            raise HotReplaceError(f"netdev_add: another netdev has the id {name}")
        back_end = NetBackEnd(netdev)
        if len(back_end.tap.fds) > 1:
            back_end.close()
            raise HotReplaceError(f"netdev_add: {name}: a hot-replace slot has one queue pair")
        self._back_ends[name] = back_end

    def remove_back_end(self, name: str) -> None:
        """Close a tap that no device has; raises HotReplaceError."""
        _take(self._back_ends, name, "netdev_del", "netdev", self._user_of_netdev(name)).close()

    def plug(self, options: HotBlk | HotNet) -> None:
        """Fill a slot; raises HotReplaceError."""
        name = options.id
        if name in self.plugged or any(d.id == name for d in self._host.config.devices):
            raise HotReplaceError(f"device_add: another device has the id {name}")
        if isinstance(options, HotBlk):
            self._insert(options, self.disks[options.addr])
        else:
            self._connect(options, self.cards[options.addr])
        self.plugged[name] = options

    def unplug(self, name: str) -> None:
        """Empty a slot once what is in flight is complete; raises HotReplaceError."""
        options = self.plugged.get(name)
        if options is None:
            if any(device.id == name for device in self._host.config.devices):
                raise HotReplaceError(
                    f"device_del: {name} is there from the start and cannot be removed"
                )
            raise NotThereError(f"Device '{name}' not found")
        if isinstance(options, HotBlk):
            image = self.disks[options.addr].eject()
            self.images[image.drive.id] = image
        else:
            back_end = self.cards[options.addr].disconnect()
            self._back_ends[back_end.netdev.id] = back_end
        del self.plugged[name]

    def _insert(self, options: HotBlk, disk: Blk) -> None:
        if disk.image is not None:
            raise HotReplaceError(f"device_add: block slot {options.addr} is taken")
        iothread = self._iothread(options.iothread)
        name = options.drive or options.id
        image = _take(self.images, name, "device_add", "block node", self._user_of_image(name))
        disk.name = options.id
        disk.insert(image, options.serial, iothread)

    def _connect(self, options: HotNet, card: Net) -> None:
        if card.back_end is not None:
            raise HotReplaceError(f"device_add: net slot {options.addr} is taken")
        iothread = self._iothread(options.iothread)
        name = options.netdev or options.id
        user = self._user_of_netdev(name)
        back_end = _take(self._back_ends, name, "device_add", "netdev", user)
        card.name = options.id
        card.connect(back_end, options.mac, iothread)

    def _user_of_image(self, name: str) -> str | None:
        for disk in self.disks:
            if disk.image is not None and disk.image.drive.id == name:
                return disk.name
        return None

    def _user_of_netdev(self, name: str) -> str | None:
        for card in self.cards:
            if card.back_end is not None and card.back_end.netdev.id == name:
                return card.name
        return None

    def _iothread(self, name: str | None) -> IoThread | None:
        try:
            return self._host.iothread(name)
        except KeyError:
            raise NotThereError(f"device_add: no -object iothread has the id {name}") from None


def _take(free: dict[str, T], name: str, command: str, noun: str, user: str | None) -> T:
    if user is not None:
        raise HotReplaceError(f"{command}: the {noun} {name} is in use by {user}")
    if name not in free:
        raise NotThereError(f"{command}: there is no {noun} {name}")
    return free.pop(name)
