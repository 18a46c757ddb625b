"""Hot-replace: disks and network cards of a board without hotplug, with replaceable back ends.

The first disks and cards of the command line are such devices; empty ones, disks without a medium
and cards without a link, fill up to BLOCK_SLOTS and NET_SLOTS.  The guest's stock driver notices
an insertion by the configuration change.
"""

from __future__ import annotations

from stratovirt.config.devices import VirtioBlkDevice, VirtioNetDevice
from stratovirt.config.hot_replace import BLOCK_SLOTS, NET_SLOTS, HotBlk, HotNet
from stratovirt.devices.device_host import DeviceHost
from stratovirt.machine.hot_plug import HotPlug, HotPlugError
from stratovirt.runtime.io_thread import IoThread
from stratovirt.virtio import blk, makers, net
from stratovirt.virtio.blk import Blk
from stratovirt.virtio.device import VirtioDevice
from stratovirt.virtio.net import Net

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from stratovirt.config.net import VhostUser
    from stratovirt.net.vhost_user import VhostUserBackEnd


class HotReplace(HotPlug):
    """BLOCK_SLOTS disks and NET_SLOTS cards; `addr` is the index in `disks` or `cards`."""

    def __init__(self, host: DeviceHost) -> None:
        super().__init__(host)
        self._idle_thread = IoThread("blk-empty")
        self.disks: list[Blk] = []
        self.cards: list[Net] = []
        self._first: dict[str, Blk | Net] = {}
        """Removable devices of the command line, by id."""

    def make_device(self, options: Any, host: DeviceHost) -> VirtioDevice:
        """Create a device of the command line, in the next slot of its kind if one is left."""
        device: VirtioDevice
        if isinstance(options, VirtioBlkDevice) and len(self.disks) < BLOCK_SLOTS:
            device = blk.make(options, host, self._idle_thread)
            self.disks.append(device)
        elif isinstance(options, VirtioNetDevice) and len(self.cards) < NET_SLOTS:
            device = net.make(options, host)
            self._add_card(device)
        else:
            return makers.make_device(options, host)
        if options.id is not None:
            self._first[options.id] = device
        return device

    def fill_up(self) -> Iterator[tuple[int, VirtioDevice]]:
        """Create an empty device for each free slot; yields (slot number, device), disks first."""
        for slot in range(len(self.disks), BLOCK_SLOTS):
            disk = Blk(f"block slot {slot}", 1, self.host, self._idle_thread)
            self.disks.append(disk)
            yield slot, disk
        for slot in range(len(self.cards), NET_SLOTS):
            card = Net(f"net slot {slot}", 1, None, self.host)
            self._add_card(card)
            yield BLOCK_SLOTS + slot, card

    def _add_card(self, card: Net) -> None:
        # A later back end may be vhost-net.
        card.uses_kernel_interrupts = True
        self.cards.append(card)

    def close(self) -> None:
        """Close the free back ends and the idle thread; the devices were closed before."""
        self._idle_thread.close()
        super().close()

    def make_back_end(self, netdev: VhostUser) -> VhostUserBackEnd:
        """Raises HotPlugError: microvm has no vhost-user cards."""
        raise HotPlugError(f"netdev_add: {netdev.id}: microvm has no vhost-user cards")

    def plug(self, options: Any) -> None:
        """Connect a back end to the device of an empty slot; raises HotPlugError."""
        self.check_new(options.id)
        if isinstance(options, HotBlk):
            self._insert(options, self.disks[options.addr])
        elif isinstance(options, HotNet):
            self._connect(options, self.cards[options.addr])
        else:
            raise HotPlugError(f"{options.flag}: microvm has no PCI bus")
        self.plugged[options.id] = options

    def unplug(self, name: str) -> None:
        """Complete the requests in flight of a slot's device and close its back end.

        Raises HotPlugError.
        """
        device = self._device(name)
        if isinstance(device, Blk):
            image = device.eject()
            image.close()
            self.images.went(image.drive.id)
            device.name = f"block slot {self.disks.index(device)}"
        else:
            back_end = device.disconnect()
            back_end.close()
            self.netdevs.went(back_end.netdev.id)
            device.name = f"net slot {self.cards.index(device)}"
        self.removed(name)

    def _device(self, name: str) -> Blk | Net:
        """The device with this id; raises HotPlugError."""
        if name in self._first:
            return self._first.pop(name)
        options = self.find(name)
        if isinstance(options, HotBlk):
            return self.disks[options.addr]
        card: Net = self.cards[options.addr]
        return card

    def _insert(self, options: HotBlk, disk: Blk) -> None:
        if disk.image is not None:
            raise HotPlugError(f"device_add: block slot {options.addr} is taken by {disk.name}")
        queues = len(disk.queue_sizes)
        if options.num_queues not in (None, queues):
            raise HotPlugError(
                f"device_add: {options.id}: num-queues must be {queues} in block slot "
                f"{options.addr}, not {options.num_queues}"
            )
        self._check_ring(options, f"block slot {options.addr}", disk)
        iothread = self.iothread(options.iothread)
        image = self.images.take(options.drive or options.id, options.id, "device_add")
        disk.name = options.id
        disk.insert(image, options.serial, iothread, options.physical_block_size)

    def _check_ring(self, options: HotBlk | HotNet, slot: str, device: VirtioDevice) -> None:
        """Raise HotPlugError for a queue-size other than the slot's, which the guest uses."""
        size = device.queue_sizes[0]
        if options.queue_size not in (None, size):
            raise HotPlugError(
                f"device_add: {options.id}: queue-size must be {size} in {slot}, "
                f"not {options.queue_size}"
            )

    def _connect(self, options: HotNet, card: Net) -> None:
        if card.back_end is not None:
            raise HotPlugError(f"device_add: net slot {options.addr} is taken by {card.name}")
        self._check_ring(options, f"net slot {options.addr}", card)
        iothread = self.iothread(options.iothread)
        name = options.netdev or options.id
        back_end = self.netdevs.take(name, options.id, "device_add")
        if back_end.pairs < card.pairs_most or (options.mq and back_end.pairs > card.pairs_most):
            self.netdevs.give_back(name, back_end)
            raise HotPlugError(
                f"device_add: {options.id}: net slot {options.addr} has {card.pairs_most} queue "
                f"pairs and the netdev {name} has {back_end.pairs}"
            )
        card.name = options.id
        card.connect(back_end, options.mac, iothread)
