"""Native PCI Express hotplug behind root ports, with the guest's consent or by fast unplug."""

from __future__ import annotations

from stratovirt.config.buses import PCI
from stratovirt.config.driver import HotPlugged
from stratovirt.config.errors import ConfigError
from stratovirt.devices.device_host import DeviceHost
from stratovirt.machine.hot_plug import HotPlug, HotPlugError, NotThereError
from stratovirt.machine.pci_devices import PciDevices
from stratovirt.pci.bus import PciBus, PlaceError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from stratovirt.config.net import VhostUser
    from stratovirt.net.vhost_user import VhostUserBackEnd
    from stratovirt.pci.function import PciFunction
    from stratovirt.pci.host_bridge import PciHost
    from stratovirt.pci.root_port import RootPort
    from stratovirt.virtio.device import VirtioDevice

PATIENCE_NS = 5_000_000_000
"""Time until the guest may be asked again to release a device, as in QEMU."""


class PciHotPlug(HotPlug):
    """Devices in the slots of root ports."""

    def __init__(self, host: DeviceHost, pci: PciHost, devices: PciDevices) -> None:
        super().__init__(host)
        self._pci = pci
        self._devices = devices
        self._asked_ns: dict[str, int] = {}
        for port in pci.root_ports:
            port.released = lambda port=port: self._released(port)  # type: ignore[misc]

    def plug(self, options: Any) -> None:
        """Create a device and attach it to an empty slot; raises StratovirtError."""
        hot = options.driver.hot
        if not isinstance(hot, HotPlugged):
            raise HotPlugError(f"{options.flag}: this board has no hot-replace slots")
        self.check_new(options.id)
        try:
            bus = self._devices.bus(options)
            if bus is self._pci.root:
                raise HotPlugError(
                    f"device_add: bus={options.bus} takes nothing while the machine runs; "
                    "name a pcie-root-port"
                )
            bus.check_place(options.addr, multifunction=options.multifunction)
        except (ConfigError, PlaceError) as error:
            raise HotPlugError(f"device_add: {error}") from error
        port = self._port_of(bus)
        if options.driver.device_id:
            function = self._carry(hot.make(options, self), hot, bus, options.vectors)
        else:
            function = hot.make(options, self._devices)
        self._devices.attach(function, bus, options.addr, multifunction=options.multifunction)
        self.plugged[options.id] = options
        port.plugged()

    def _carry(
        self, device: VirtioDevice, hot: HotPlugged, bus: PciBus, vectors: int | None
    ) -> PciFunction:
        try:
            return self._devices.carry(device, bus, vectors)
        except Exception:
            hot.give_back(device, self)
            device.close()
            raise

    def make_back_end(self, netdev: VhostUser) -> VhostUserBackEnd:
        """Create the back end for an added chardev; raises NotThereError for another."""
        if netdev.chardev not in self._sockets:
            raise NotThereError(
                f"netdev_add: there is no chardev {netdev.chardev} for a back end (chardev-add)"
            )
        from stratovirt.net.vhost_user import VhostUserBackEnd

        return VhostUserBackEnd(netdev, self.host)

    def _port_of(self, bus: PciBus) -> RootPort:
        return next(port for port in self._pci.root_ports if port.secondary is bus)

    def unplug(self, name: str) -> None:
        """Ask the guest to release a device; raises HotPlugError."""
        options = self._find(name)
        port = self._port_of(self._devices.bus(options))
        now_ns = self.host.clock.now_ns()
        if port.is_unplugging and now_ns - self._asked_ns.get(name, 0) < PATIENCE_NS:
            raise HotPlugError(f"device_del: {name} is in the process of being unplugged")
        self._asked_ns[name] = now_ns
        port.request_unplug()

    def is_leaving(self, name: str) -> bool:
        """Whether the guest was asked to release a device and has not yet."""
        return name in self._asked_ns

    def _find(self, name: str) -> Any:
        """The options of an added device or of one from the command line behind a root port."""
        for options in self.host.config.devices:
            if options.id == name and self._is_removable(options):
                return options
        return self.find(name)

    def _is_removable(self, options: Any) -> bool:
        if "bus" not in options.fields or options.driver.provides == PCI:
            return False
        return self._devices.bus(options) is not self._pci.root

    def _released(self, port: RootPort) -> None:
        """Remove all functions of a slot: released by the guest, powered off, or reset."""
        functions = list(port.secondary.functions.values())
        if not functions:
            return
        devices = [self._devices.release(function) for function in functions]
        port.unplugged()
        for function, device in zip(functions, devices, strict=True):
            if device is not None:
                self._take_back(device)
            self._forget(function.name)

    def _take_back(self, device: VirtioDevice) -> None:
        """Close the device; a back end created by QMP stays open, as in QEMU."""
        if device.name in self.plugged:
            self.plugged[device.name].driver.hot.give_back(device, self)
        device.close()

    def _forget(self, name: str) -> None:
        self._asked_ns.pop(name, None)
        self.removed(name)
