"""Hot-replace: devices of a board without hotplug whose back ends come and go.

The first devices of the command line that can be so are such devices; empty ones, disks without a
medium and cards without a link, fill up to the number of slots of their driver.  The guest's
stock driver notices an insertion by the configuration change.
"""

from __future__ import annotations

from stratovirt.config.buses import MMIO
from stratovirt.config.driver import HotReplaced
from stratovirt.config.registry import hot_drivers
from stratovirt.devices.device_host import DeviceHost
from stratovirt.machine.hot_plug import HotPlug
from stratovirt.machine.inventory import HotPlugError, Inventory
from stratovirt.runtime.io_thread import IoThread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from stratovirt.config.driver import Driver
    from stratovirt.config.net import VhostUser
    from stratovirt.machine.inventory import Device
    from stratovirt.net.vhost_user import VhostUserBackEnd
    from stratovirt.virtio.device import VirtioDevice


class Slots:
    """The slots of one driver, with the devices in them; `addr` is the index in `devices`."""

    def __init__(self, kind: HotReplaced) -> None:
        self.kind = kind
        self.devices: list[VirtioDevice] = []

    def name(self, number: int) -> str:
        """The name of an empty slot's device."""
        return f"{self.kind.noun} {number}"


class HotReplace(HotPlug):
    """The slots of each driver whose devices can be replaced, in the order of the drivers' names.

    The guest numbers its disks and cards in this order, so it stays.
    """

    def __init__(self, host: DeviceHost, inventory: Inventory) -> None:
        super().__init__(host, inventory)
        self.idle_thread = IoThread("blk-empty")
        self._slots: dict[Driver, Slots] = {}
        replaced = (driver for driver in hot_drivers() if driver.bus == MMIO)
        for driver in sorted(replaced, key=lambda driver: driver.name):
            hot = driver.hot
            if isinstance(hot, HotReplaced):
                self._slots[driver] = Slots(hot)
        self._filled: dict[str, tuple[Slots, VirtioDevice]] = {}
        """The devices that can be removed, with their slots, by id."""

    def adopt(self, options: Any, device: VirtioDevice) -> None:
        """Take a device of the command line as the next slot of its driver if one is left."""
        slots = self._slots.get(options.driver)
        if slots is None or len(slots.devices) == slots.kind.count:
            return
        slots.kind.adopt(device, self)
        slots.devices.append(device)
        if options.id is not None:
            self._filled[options.id] = slots, device

    def fill_up(self) -> Iterator[tuple[int, VirtioDevice]]:
        """Create an empty device for each free slot; yields (number among all slots, device)."""
        first = 0
        for slots in self._slots.values():
            for number in range(len(slots.devices), slots.kind.count):
                device: VirtioDevice = slots.kind.make_empty(slots.name(number), self)
                slots.devices.append(device)
                yield first + number, device
            first += slots.kind.count

    def close(self) -> None:
        """Close the free back ends and the idle thread; the devices were closed before."""
        self.idle_thread.close()
        super().close()

    def make_back_end(self, netdev: VhostUser) -> VhostUserBackEnd:
        """Raises HotPlugError: microvm has no vhost-user cards."""
        raise HotPlugError(f"netdev_add: {netdev.id}: microvm has no vhost-user cards")

    def plug(self, options: Any) -> None:
        """Connect a back end to the device of an empty slot; raises HotPlugError."""
        self.inventory.devices.check_new(options.id)
        slots = self._slots.get(options.driver)
        if slots is None:
            raise HotPlugError(f"{options.flag}: microvm has no PCI bus")
        device = slots.devices[options.addr]
        slots.kind.fill(options, device, self)
        self._filled[options.id] = slots, device
        self.inventory.devices.add(options)

    def unplug(self, name: str) -> None:
        """Complete the requests in flight of a slot's device and close its back end.

        Raises HotPlugError.
        """
        found = self.find(name)
        slots, device = self._filled.pop(name)
        slots.kind.empty(device)
        device.name = slots.name(slots.devices.index(device))
        self.removed(found)

    def is_removable(self, device: Device) -> bool:
        """Whether the device is in a slot."""
        return device.key in self._filled

    def check_ring(self, options: Any, slot: str, device: VirtioDevice) -> None:
        """Raise HotPlugError for a queue-size other than the slot's, which the guest uses."""
        size = device.queue_sizes[0]
        if options.queue_size not in (None, size):
            raise self.refusal(
                f"{options.id}: queue-size must be {size} in {slot}, not {options.queue_size}"
            )

    def refusal(self, reason: str) -> HotPlugError:
        """The error of a device_add that a slot cannot do."""
        return HotPlugError(f"device_add: {reason}")
