"""What QMP plugs into the root ports of a running machine."""

from __future__ import annotations

from stratovirt.config.devices import (
    BLOCK_QUEUES_MOST,
    SERIAL_LONGEST,
    VECTORS_MOST,
    Sent,
    SentWithDisk,
    WithQueueSize,
)
from stratovirt.config.hot_replace import HotBlk, HotNet
from stratovirt.config.kinds import (
    HostPciAddress,
    Identifier,
    Integer,
    MacAddress,
    OnOff,
    PciAddress,
    Reference,
    Text,
)
from stratovirt.config.net import Tap, VhostUser
from stratovirt.config.options import Family, Options, opt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.host.request import Named


class HotPciPlace(Options):
    """Behind which root port."""

    id: str = opt(Identifier(), help="device name")
    bus: str = opt(Identifier(), help="id of a pcie-root-port")
    addr: tuple[int, int] = opt(PciAddress(), default=(0, 0), help="SLOT.FUNCTION, always 0")
    multifunction: bool = opt(OnOff(), default=False, help="what the function's header says")

    def check(self) -> None:
        """A slot is filled with one function, which the guest is told of."""
        if self.addr != (0, 0):
            raise ValueError("addr must be 0 or 0.0: the slot of a root port takes one function")


class HotVirtio(HotPciPlace, WithQueueSize):
    """A virtio device behind a root port."""

    vectors: int | None = opt(
        Integer(0, VECTORS_MOST), default=None, help="MSI-X vectors; 0: the pin only"
    )
    iothread: str | None = opt(
        Reference("-object iothread", shared=True), default=None, help="id of an -object iothread"
    )


class HotPciBlk(HotVirtio, SentWithDisk, flag="device_add virtio-blk-pci"):
    """A disk behind a root port."""

    drive: str | None = opt(
        Reference("blockdev-add"), default=None, help="node-name of the back end; the id if missing"
    )
    serial: str | None = opt(
        Text(longest=SERIAL_LONGEST), default=None, help=f"up to {SERIAL_LONGEST} characters"
    )
    num_queues: int = opt(Integer(1, BLOCK_QUEUES_MOST), default=1, help="request queues")


class HotPciNet(HotVirtio, Sent, flag="device_add virtio-net-pci"):
    """A network card behind a root port."""

    netdev: str | None = opt(
        Reference("netdev_add"), default=None, help="id of the back end; the device's if missing"
    )
    mac: bytes | None = opt(MacAddress(), default=None, help="address of the card")
    mq: bool = opt(OnOff(), default=False, help="offer all queue pairs of the netdev")


class HotVfio(HotPciPlace, flag="device_add vfio-pci"):
    """A PCI function of the host behind a root port."""

    host: str = opt(HostPciAddress(), help="the function on the host")

    def names(self) -> Named:
        """The function."""
        from stratovirt.host.request import Named
        from stratovirt.vfio.host import VfioRequest

        return Named([VfioRequest(host=self.host)])


HOT_DRIVERS = Family(
    "device_add",
    key="driver",
    noun="driver",
    variants={
        "virtio-blk-mmio": HotBlk,
        "virtio-blk-device": HotBlk,
        "virtio-net-mmio": HotNet,
        "virtio-net-device": HotNet,
        "virtio-blk-pci": HotPciBlk,
        "virtio-net-pci": HotPciNet,
        "vfio-pci": HotVfio,
    },
)
"""device_add's drivers: hot-replace slots of microvm, root ports of q35."""

HOT_NETDEVS = Family(
    "netdev_add",
    key="type",
    noun="back end",
    variants={"tap": Tap, "vhost-user": VhostUser},
    default="tap",
)


class IdArguments(Options):
    """Which device, netdev or chardev."""

    id: str = opt(Identifier(), help="its id")
