"""vfio-pci: a PCI function of the host, passed through."""

from __future__ import annotations

from stratovirt.config.address_kinds import HostPciAddress
from stratovirt.config.buses import PCI
from stratovirt.config.devices import PciPlace
from stratovirt.config.driver import DeviceOptions, Driver
from stratovirt.config.kinds import Identifier
from stratovirt.config.options import opt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.config.driver import HotPlugged
    from stratovirt.machine.pci_devices import PciDevices
    from stratovirt.pci.function import PciFunction


class VfioPci(PciPlace, DeviceOptions, flag="-device vfio-pci"):
    """A PCI function of the host, passed through."""

    host: str = opt(HostPciAddress(), help="the function on the host")
    id: str | None = opt(Identifier(), default=None, help="device name")


def make(options: VfioPci, devices: PciDevices) -> PciFunction:
    """The function; raises VfioError."""
    return devices.pass_through(options.host, options.id, f"{options.flag},host={options.host}")


def _behind_port() -> HotPlugged:
    from stratovirt.hotplug.vfio_pci import BEHIND_PORT

    return BEHIND_PORT


DRIVERS = (
    Driver(
        "vfio-pci",
        VfioPci,
        make,
        bus=PCI,
        hot=_behind_port,
        native=("stratovirt._native.vfio",),
    ),
)
