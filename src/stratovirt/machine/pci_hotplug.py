"""Native PCI Express hotplug behind root ports, with the guest's consent or by fast unplug."""

from __future__ import annotations

from stratovirt.config.buses import PCI
from stratovirt.config.driver import HotPlugged
from stratovirt.config.errors import ConfigError
from stratovirt.config.registry import name_of
from stratovirt.devices.device_host import DeviceHost
from stratovirt.machine.hot_plug import HotPlug
from stratovirt.machine.inventory import HotPlugError, Inventory
from stratovirt.machine.pci_devices import PciDevices
from stratovirt.pci.bus import PciBus, PlaceError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from stratovirt.config.net import VhostUser
    from stratovirt.machine.inventory import Device
    from stratovirt.net.vhost_user import VhostUserBackEnd
    from stratovirt.pci.function import PciFunction
    from stratovirt.pci.host_bridge import PciHost
    from stratovirt.pci.root_port import RootPort
    from stratovirt.virtio.device import VirtioDevice

PATIENCE_NS = 5_000_000_000
"""Time until the guest may be asked again to release a device, as in QEMU."""


class PciHotPlug(HotPlug):
    """Devices in the slots of root ports."""

    def __init__(
        self, host: DeviceHost, inventory: Inventory, pci: PciHost, devices: PciDevices
    ) -> None:
        super().__init__(host, inventory)
        self._pci = pci
        self._devices = devices
        for port in pci.root_ports:
            port.released = lambda port=port: self._released(port)  # type: ignore[misc]

    def plug(self, options: Any) -> None:
        """Create a device and attach it to an empty slot; raises StratovirtError."""
        hot = options.driver.hot
        if not isinstance(hot, HotPlugged):
            raise HotPlugError(f"{options.flag}: this board has no hot-replace slots")
        self.inventory.devices.check_new(options.id)
        try:
            bus = self._devices.bus(options)
            if bus is self._pci.root:
                raise HotPlugError(
                    f"device_add: bus={options.bus} takes nothing while the machine runs; "
                    f"name a {name_of(PCI, provides=PCI)}"
                )
            bus.check_place(options.addr, multifunction=options.multifunction)
        except (ConfigError, PlaceError) as error:
            raise HotPlugError(f"device_add: {error}") from error
        port = self._port_of(bus)
        if options.driver.device_id:
            function = self._carry(hot.make(options, self), hot, bus, options.vectors)
        else:
            function = hot.make(options, self._devices)
        try:
            self._devices.attach(function, bus, options)
        except Exception:
            self._close(self._devices.release(function), hot)
            raise
        self.inventory.devices.add(options)
        port.plugged()

    def _carry(
        self, device: VirtioDevice, hot: HotPlugged, bus: PciBus, vectors: int | None
    ) -> PciFunction:
        try:
            return self._devices.carry(device, bus, vectors)
        except Exception:
            self._close(device, hot)
            raise

    def _close(self, device: VirtioDevice | None, hot: HotPlugged | None) -> None:
        """Close a virtio device; the back end that `hot` has given it stays open, as in QEMU."""
        if device is not None:
            if hot is not None:
                hot.give_back(device, self)
            device.close()

    def make_back_end(self, netdev: VhostUser) -> VhostUserBackEnd:
        """Create the back end for an added chardev; raises NotThereError for another."""
        chardev = self.inventory.chardevs.for_back_end(netdev.chardev)
        from stratovirt.net.vhost_user import VhostUserBackEnd

        return VhostUserBackEnd(netdev, chardev, self.host)

    def _port_of(self, bus: PciBus) -> RootPort:
        return next(port for port in self._pci.root_ports if port.secondary is bus)

    def unplug(self, name: str) -> None:
        """Ask the guest to release a device; raises HotPlugError."""
        device = self.find(name)
        port = self._port_of(self._devices.bus(device.options))
        now_ns = self.host.clock.now_ns()
        if port.is_unplugging and now_ns - (device.asked_ns or 0) < PATIENCE_NS:
            raise HotPlugError(f"device_del: {name} is in the process of being unplugged")
        device.asked_ns = now_ns
        port.request_unplug()

    def is_removable(self, device: Device) -> bool:
        """Whether the device is behind a root port."""
        options = device.options
        if "bus" not in options.fields or options.driver.provides == PCI:
            return False
        return self._devices.bus(options) is not self._pci.root

    def _released(self, port: RootPort) -> None:
        """Remove all functions of a slot: released by the guest, powered off, or reset."""
        functions = list(port.secondary.functions.values())
        if not functions:
            return
        released = [(self._devices.options[f], self._devices.release(f)) for f in functions]
        port.unplugged()
        for options, device in released:
            found = self.inventory.devices.of(options)
            self._close(device, options.driver.hot if found.is_added else None)
            self.removed(found)
