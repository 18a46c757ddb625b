"""Back ends that QMP creates while a machine runs, and the interface of hotplug on a board.

Back ends (block nodes, netdevs) are created and removed separately from devices; while a device
uses one, the device owns it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from stratovirt.block.image import Image
from stratovirt.config.drive import Drive
from stratovirt.config.hot_replace import Blockdev
from stratovirt.devices.device_host import DeviceHost
from stratovirt.machine.inventory import HotPlugError, Inventory, NotThereError
from stratovirt.net.tap_back_end import TapBackEnd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from stratovirt.config.net import Tap, VhostUser
    from stratovirt.machine.inventory import Device
    from stratovirt.net.vhost_user import VhostUserBackEnd
    from stratovirt.runtime.io_thread import IoThread
    from stratovirt.vhost.user import VhostUser as VhostUserPeer


class HotPlug(ABC):
    """Adds back ends and devices to a running machine and removes them."""

    def __init__(self, host: DeviceHost, inventory: Inventory) -> None:
        self.host, self.inventory = host, inventory

    @abstractmethod
    def plug(self, options: Any) -> None:
        """Add a device; raises StratovirtError."""

    @abstractmethod
    def unplug(self, name: str) -> None:
        """Remove a device, now or when the guest has released it.

        The event DEVICE_DELETED follows its removal.  Raises HotPlugError.
        """

    @abstractmethod
    def is_removable(self, device: Device) -> bool:
        """Whether a device of the command line can be removed."""

    def close(self) -> None:
        """Close the free back ends; the devices were closed before."""
        self.inventory.close()

    def add_image(self, node: Blockdev) -> None:
        """Open a block node; raises StratovirtError."""
        name = node.node_name
        self.inventory.nodes.check_new(name)
        drive = Drive(
            id=name,
            file=node.file.filename,
            readonly=node.read_only,
            direct=node.cache.direct,
            throttling_iops_total=node.iops_total,
        )
        uses_uring = node.file.aio in ("io_uring", "native")
        source = f"blockdev-add node-name={name}"
        image = Image(drive, self.host.access, source, uses_uring=uses_uring)
        self.inventory.nodes.add(name, image)

    def add_tap(self, netdev: Tap) -> None:
        """Open a tap; raises StratovirtError."""
        self.inventory.netdevs.check_new(netdev.id)
        self.inventory.netdevs.add(netdev.id, TapBackEnd(netdev, self.host.access))

    def begin_back_end(self, netdev: VhostUser) -> VhostUserBackEnd:
        """Reserve the netdev's id and create its back end, whose peer is not connected yet.

        `end_back_end` follows.  Raises StratovirtError.
        """
        self.inventory.netdevs.check_new(netdev.id)
        back_end = self.make_back_end(netdev)
        self.inventory.netdevs.reserve(netdev.id)
        self.inventory.chardevs.use(netdev.chardev, netdev.id)
        return back_end

    def end_back_end(self, back_end: VhostUserBackEnd, meet: Callable[[], VhostUserPeer]) -> None:
        """Add the back end with the peer that `meet` returns; raises StratovirtError."""
        name = back_end.netdev.id
        try:
            back_end.begin(meet())
        except Exception:
            self.inventory.netdevs.cancel(name)
            self.inventory.chardevs.release(name)
            raise
        self.inventory.netdevs.add(name, back_end)

    @abstractmethod
    def make_back_end(self, netdev: VhostUser) -> VhostUserBackEnd:
        """Create a back end that is not connected yet; raises StratovirtError if unsupported."""

    def remove_back_end(self, name: str) -> None:
        """Close a netdev that no device uses; raises HotPlugError."""
        self.inventory.netdevs.remove(name)
        self.inventory.chardevs.release(name)

    def find(self, name: str) -> Device:
        """The device with this id, which can be removed; raises HotPlugError."""
        device = self.inventory.devices.get(name)
        if device is None:
            raise NotThereError(f"Device '{name}' not found")
        if not device.is_added and not self.is_removable(device):
            raise HotPlugError(f"device_del: {name} is there from the start and cannot be removed")
        return device

    def removed(self, device: Device) -> None:
        """Drop the record of a removed device and, if it has an id, send DEVICE_DELETED."""
        self.inventory.remove_device(device)
        if device.options.id is not None:
            content = {"device": device.options.id, "path": device.path}
            self.host.send_event("DEVICE_DELETED", content)

    def iothread(self, name: str | None) -> IoThread | None:
        """The thread with this id; raises NotThereError."""
        try:
            return self.host.iothread(name)
        except KeyError:
            raise NotThereError(f"device_add: no -object iothread has the id {name}") from None
