"""pcie-root-port: a slot for a device that comes and goes."""

from __future__ import annotations

from stratovirt.config.buses import PCI
from stratovirt.config.devices import PciPlace
from stratovirt.config.driver import DeviceOptions, Driver
from stratovirt.config.errors import ConfigError
from stratovirt.config.kinds import Identifier, Integer, OnOff
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


class ZeroOne(OnOff):
    """A switch that is also written 1 or 0."""

    allowed = "1, 0, on or off"
    _words = {**OnOff._words, "1": True, "0": False}


class EveryRootPort(DeviceOptions, flag="-global"):
    """Properties of all devices of a kind."""

    fast_unplug: bool = opt(
        ZeroOne(),
        key="pcie-root-port.fast-unplug",
        help="have the guest let go at once, without five seconds of blinking (Kata)",
    )


def make(options: PcieRootPort, devices: PciDevices) -> RootPort:
    """The port, with a bus of its own; raises ConfigError."""
    from stratovirt.pci.root_port import RootPort

    pci, host = devices.pci, devices.host
    if devices.bus(options) is not pci.root:
        raise ConfigError(f"{options.flag},bus={options.bus}: root ports are on pcie.0 only")
    if options.id in (known.name for known in pci.buses()):
        raise ConfigError(f"{options.flag},id={options.id}: another bus has this name")
    given = [g for g in host.config.globals if isinstance(g, EveryRootPort)]
    fast = any(each.fast_unplug for each in given)
    port = RootPort(options.id, pci, devices.accelerator, port=options.port, fast_unplug=fast)
    pci.root_ports.append(port)
    return port


DRIVERS = (
    # The ring is for a disk in the slot.
    Driver(
        "pcie-root-port",
        PcieRootPort,
        make,
        bus=PCI,
        provides=PCI,
        rings=1,
        of_all=EveryRootPort,
    ),
)
