"""PCI functions of the host that come and go while the machine runs."""

from __future__ import annotations

from stratovirt.config.address_kinds import HostPciAddress
from stratovirt.config.driver import DeviceOptions, HotPlugged
from stratovirt.config.hotplug import HotPciPlace
from stratovirt.config.options import opt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.host.request import Named
    from stratovirt.machine.pci_devices import PciDevices
    from stratovirt.pci.function import PciFunction


class PluggedVfio(HotPciPlace, DeviceOptions, flag="device_add vfio-pci"):
    """A PCI function of the host behind a root port."""

    host: str = opt(HostPciAddress(), help="the function on the host")

    def names(self) -> Named:
        """The function."""
        from stratovirt.host.request import Named
        from stratovirt.vfio.host import VfioRequest

        return Named([VfioRequest(host=self.host)])


def plug(options: PluggedVfio, devices: PciDevices) -> PciFunction:
    """The function; raises VfioError."""
    source = f"device_add: vfio-pci,host={options.host}"
    return devices.pass_through(options.host, options.id, source)


BEHIND_PORT = HotPlugged(PluggedVfio, plug)
