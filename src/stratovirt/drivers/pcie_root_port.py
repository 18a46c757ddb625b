"""pcie-root-port: a slot for a device that comes and goes."""

from __future__ import annotations

from stratovirt.config.buses import PCI
from stratovirt.config.devices import PciPlace
from stratovirt.config.driver import DeviceOptions, Driver
from stratovirt.config.errors import ConfigError
from stratovirt.config.kinds import Identifier, Integer
from stratovirt.config.options import opt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.machine.pci_devices import PciDevices
    from stratovirt.pci.root_port import RootPort


class PcieRootPort(PciPlace, DeviceOptions, flag="-device pcie-root-port"):
    """A PCI Express root port: one slot for a device that can be plugged and unplugged."""

    id: str = opt(Identifier(), help="name of the bus behind the port")
    port: int = opt(Integer(0, 255), default=0, help="port number")
    chassis: int | None = opt(Integer(0, 255), default=None, help="accepted for libvirt")


def make(options: PcieRootPort, devices: PciDevices) -> RootPort:
    """The port, with a bus of its own; raises ConfigError."""
    from stratovirt.pci.root_port import RootPort

    pci, host = devices.pci, devices.host
    if devices.bus(options) is not pci.root:
        raise ConfigError(f"{options.flag},bus={options.bus}: root ports are on pcie.0 only")
    if options.id in (known.name for known in pci.buses()):
        raise ConfigError(f"{options.flag},id={options.id}: another bus has this name")
    fast = any(given.fast_unplug for given in host.config.globals)
    port = RootPort(options.id, pci, devices.accelerator, port=options.port, fast_unplug=fast)
    pci.root_ports.append(port)
    return port


DRIVERS = (
    # The ring is for a disk in the slot.
    Driver("pcie-root-port", PcieRootPort, make, bus=PCI, provides=PCI, rings=1),
)
