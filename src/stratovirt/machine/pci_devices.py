"""Devices on a board's PCI buses, created from their options at start or by hotplug."""

from __future__ import annotations

from stratovirt.config.errors import ConfigError
from stratovirt.pci.bus import PciBus, PlaceError, devfn_of
from stratovirt.runtime.log import Log
from stratovirt.snapshot.paths import DevicePaths
from stratovirt.snapshot.state import Entry
from stratovirt.virtio.pci import PciTransport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from stratovirt.accel.base import Accelerator
    from stratovirt.config.driver import Driver
    from stratovirt.devices.device_host import DeviceHost
    from stratovirt.pci.function import PciFunction
    from stratovirt.pci.host_bridge import PciHost
    from stratovirt.vfio.container import VfioContainer
    from stratovirt.vfio.function import VfioFunction
    from stratovirt.virtio.device import VirtioDevice

log = Log(__name__)

BUS_ALIASES = {"pci.0": "pcie.0"}
"""Second names of buses; the guidebook's examples use both."""


class PciDevices:
    """Creates devices and attaches them to buses; raises StratovirtError naming the option."""

    def __init__(self, pci: PciHost, host: DeviceHost, accelerator: Accelerator) -> None:
        self.pci = pci
        self.host = host
        self.accelerator = accelerator
        self.transports: dict[PciFunction, PciTransport] = {}
        self.options: dict[PciFunction, Any] = {}
        """The options of the attached functions."""
        self._names = DevicePaths()
        self._paths: dict[PciFunction, str] = {}
        """The path of each function from `add` in the tree of states."""
        self._passed_through: dict[PciFunction, VfioFunction] = {}
        self._vfio: VfioContainer | None = None

    @property
    def virtio_devices(self) -> list[VirtioDevice]:
        """All virtio devices."""
        return [transport.device for transport in self.transports.values()]

    def bus(self, options: Any) -> PciBus:
        """The bus that the options name."""
        name = BUS_ALIASES.get(options.bus, options.bus)
        for bus in self.pci.buses():
            if bus.name == name:
                return bus
        raise ConfigError(f"{options.flag},bus={options.bus}: there is no bus of this name")

    def add(self, options: Any) -> PciFunction:
        """Create the device of `options` and attach it at their bus and addr."""
        bus = self.bus(options)
        source = f"{options.flag},bus={options.bus}"
        try:
            bus.check_place(options.addr, multifunction=options.multifunction)
        except PlaceError as error:
            raise ConfigError(f"{source},{error}") from error
        function = self._make(options, bus)
        self._paths[function] = self._names.next(options)
        self.attach(function, bus, options)
        return function

    def states(self) -> Iterator[Entry]:
        """The functions from `add` that are there yet, each with what is behind it."""
        for function, path in self._paths.items():
            driver = self.options[function].driver.name
            yield Entry(path, function, driver)
            transport = self.transports.get(function)
            if transport is not None:
                yield Entry(f"{path}/virtio", transport, driver)
                yield Entry(f"{path}/device", transport.device, driver)

    def check_slots(self, devices: Iterable[Any]) -> None:
        """Raise ConfigError for a device in a slot without function 0: guests skip such slots."""
        for options in devices:
            if "addr" not in options.fields:
                continue
            slot, function = options.addr
            if devfn_of((slot, 0)) not in self.bus(options).functions:
                raise ConfigError(
                    f"{options.flag},bus={options.bus},addr={slot:#x}.{function:#x}: no guest "
                    f"would see it, since nothing is at function 0 of slot {slot:#x}; put it there"
                )

    def attach(self, function: PciFunction, bus: PciBus, options: Any) -> None:
        """Attach the function of `options` to their bus; raises PlaceError."""
        bus.attach(function, options.addr, multifunction=options.multifunction)
        self.options[function] = options
        if function in self._passed_through:
            self._passed_through[function].attached()

    def pass_through(self, address: str, name: str | None, source: str) -> PciFunction:
        """Open a host PCI function for passthrough (VFIO); raises VfioError."""
        from stratovirt.vfio.container import VfioContainer
        from stratovirt.vfio.function import VfioFunction
        from stratovirt.vfio.host import VfioError

        if self._vfio is None:
            self._vfio = VfioContainer(
                self.host.memory, self.pci.memory, self.accelerator, self.host.access
            )
            # DMA pins guest RAM, so the balloon must not discard pages.
            self.host.memory.is_pinned = True
        device, group = self._vfio.open_device(address, source)
        try:
            function = VfioFunction(
                name or f"vfio({address})", device, group, self._vfio, self.accelerator,
                self.host.loop,
            )  # fmt: skip
        except Exception as error:
            device.close()
            self._vfio.leave(group)
            if isinstance(error, OSError):
                raise VfioError(f"{source}: {error.strerror}") from error
            raise
        self._passed_through[function] = function
        function.gone = lambda: self._wanted_back(function)
        return function

    def _wanted_back(self, function: PciFunction) -> None:
        """Ask the guest to release a device that the host's administrator unbinds."""
        log.warn(f"{function.name}: the host wants the device back")
        for port in self.pci.root_ports:
            if port.secondary is function.bus:
                port.request_unplug()

    def _make(self, options: Any, bus: PciBus) -> PciFunction:
        driver: Driver = options.driver
        if not driver.device_id:
            function: PciFunction = driver.make(options, self)
            return function
        device: VirtioDevice = driver.make(options, self.host)
        try:
            return self.carry(device, bus, options.vectors)
        except Exception:
            device.close()
            raise

    def carry(self, device: VirtioDevice, bus: PciBus, vectors: int | None) -> PciFunction:
        """Create a virtio device's PCI function for `bus`, with `vectors` MSI-X vectors."""
        transport = PciTransport(
            device,
            self.host,
            self.accelerator,
            is_integrated=bus is self.pci.root,
            vectors=vectors,
        )
        self.transports[transport.function] = transport
        return transport.function

    def release(self, function: PciFunction) -> VirtioDevice | None:
        """Detach and close a function; its stopped virtio device passes to the caller."""
        transport = self.transports.pop(function, None)
        self._paths.pop(function, None)
        self._passed_through.pop(function, None)
        self.options.pop(function, None)
        function.reset()
        if function.bus is not None:
            function.bus.detach(function.devfn)
        function.close()
        if transport is None:
            return None
        transport.close()
        return transport.device

    def close(self) -> None:
        """Detach and close all functions and their devices."""
        for bus in reversed(self.pci.buses()):
            for function in list(bus.functions.values()):
                device = self.release(function)
                if device is not None:
                    device.close()
