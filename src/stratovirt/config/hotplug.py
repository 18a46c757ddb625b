"""Options common to hotplugged devices, and the back ends that QMP adds."""

from __future__ import annotations

from stratovirt.config.address_kinds import PciAddress
from stratovirt.config.devices import VECTORS_MOST, WithQueueSize
from stratovirt.config.kinds import Identifier, Integer, OnOff, Reference
from stratovirt.config.net import Tap, VhostUser
from stratovirt.config.options import Family, Options, opt


class HotPciPlace(Options):
    """Behind which root port."""

    id: str = opt(Identifier(), help="device name")
    bus: str = opt(Identifier(), help="id of a root port")
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
