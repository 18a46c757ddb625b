"""Hot-replace: slots of a board without hotplug, whose media and cables come and go.

A slot is a virtio device from the start, a disk without a medium or a card without a link, so the
guest's stock driver needs no help to notice what is put in.
"""

from __future__ import annotations

from stratovirt.config.hot_replace import BLOCK_SLOTS, NET_SLOTS, HotBlk, HotNet
from stratovirt.config.net import VhostUser
from stratovirt.machine.device_host import DeviceHost
from stratovirt.machine.hot_plug import HotPlug, HotPlugError
from stratovirt.net.back_end import BackEnd, TapBackEnd
from stratovirt.runtime.io_thread import IoThread
from stratovirt.virtio.blk import Blk
from stratovirt.virtio.device import VirtioDevice
from stratovirt.virtio.net import Net

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from stratovirt.config.net import Tap


class HotReplace(HotPlug):
    """Four disks and two cards."""

    def __init__(self, host: DeviceHost) -> None:
        super().__init__(host)
        self._idle_thread = IoThread()
        self.disks = [
            Blk(f"block slot {slot}", 1, host, self._idle_thread) for slot in range(BLOCK_SLOTS)
        ]
        self.cards = [Net(f"net slot {slot}", 1, None, host) for slot in range(NET_SLOTS)]
        for card in self.cards:
            # A cable may turn out to be vhost-net's.
            card.uses_kernel_interrupts = True

    @property
    def devices(self) -> list[VirtioDevice]:
        """One for each slot."""
        return [*self.disks, *self.cards]

    def close(self) -> None:
        """Give back what no device has; the devices were closed before."""
        self._idle_thread.close()
        super().close()

    def open_back_end(self, netdev: Tap | VhostUser) -> BackEnd:
        """Open a tap of one queue pair; raises StratovirtError."""
        if isinstance(netdev, VhostUser):
            raise HotPlugError(f"netdev_add: {netdev.id}: microvm has no vhost-user cards")
        back_end = TapBackEnd(netdev, self.host.access)
        if back_end.pairs > 1:
            back_end.close()
            raise HotPlugError(f"netdev_add: {netdev.id}: a hot-replace slot has one queue pair")
        return back_end

    def plug(self, options: Any) -> None:
        """Fill a slot; raises HotPlugError."""
        self.check_new(options.id)
        if isinstance(options, HotBlk):
            self._insert(options, self.disks[options.addr])
        elif isinstance(options, HotNet):
            self._connect(options, self.cards[options.addr])
        else:
            raise HotPlugError(f"{options.flag}: microvm has no PCI bus")
        self.plugged[options.id] = options

    def unplug(self, name: str) -> None:
        """Empty a slot once what is in flight is complete; raises HotPlugError."""
        options = self.find(name)
        if isinstance(options, HotBlk):
            image = self.disks[options.addr].eject()
            self.images.give_back(image.drive.id, image)
        else:
            back_end = self.cards[options.addr].disconnect()
            self.netdevs.give_back(back_end.netdev.id, back_end)
        self.removed(name)

    def _insert(self, options: HotBlk, disk: Blk) -> None:
        if disk.image is not None:
            raise HotPlugError(f"device_add: block slot {options.addr} is taken")
        iothread = self.iothread(options.iothread)
        name = options.drive or options.id
        image = self.images.take(name, options.id, "device_add")
        try:
            disk.insert(image, options.serial, iothread)
        except Exception:
            disk.image = None
            self.images.give_back(name, image)
            raise
        disk.name = options.id

    def _connect(self, options: HotNet, card: Net) -> None:
        if card.back_end is not None:
            raise HotPlugError(f"device_add: net slot {options.addr} is taken")
        iothread = self.iothread(options.iothread)
        name = options.netdev or options.id
        back_end = self.netdevs.take(name, options.id, "device_add")
        try:
            card.connect(back_end, options.mac, iothread)
        except Exception:
            card.back_end = None
            self.netdevs.give_back(name, back_end)
            raise
        card.name = options.id
