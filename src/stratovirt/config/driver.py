"""A driver of -device as one object: its names, its bus, its options and the code behind them."""

from __future__ import annotations

from stratovirt.config.buses import MMIO, PCI
from stratovirt.config.devices import Sent, VirtioPciPlace
from stratovirt.config.options import Options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ClassVar, Final


class DeviceOptions(Options):
    """Base of a driver's options."""

    driver: ClassVar[Driver]


class HotPlugged:
    """How device_add creates a driver's device behind a root port.

    `options` are its arguments.  `make(options, hot_plug)` creates the device with a back end of
    `hot_plug` (machine/hot_plug.py), and `give_back(device, hot_plug)` returns that back end.
    """

    def __init__(
        self,
        options: type[DeviceOptions],
        make: Callable[[Any, Any], Any],
        give_back: Callable[[Any, Any], None] = lambda _device, _hot_plug: None,
    ) -> None:
        self.options: Final = options
        self.make: Final = make
        self.give_back: Final = give_back


class HotReplaced:
    """How device_add fills slots of a board without hotplug, and device_del empties them.

    `options` are its arguments.  A slot is called `noun`; a board has `count` of them.
    `adopt(device, slots)` makes a device of the command line one whose back end can be removed,
    `make_empty(name, slots)` creates one without a back end (`slots` is of
    machine/hot_replace.py).  `fill(options, device, slots)` gives a device its back end,
    `empty(device)` closes it.
    """

    def __init__(
        self,
        options: type[DeviceOptions],
        *,
        noun: str,
        count: int,
        adopt: Callable[[Any, Any], None],
        make_empty: Callable[[str, Any], Any],
        fill: Callable[[Any, Any, Any], None],
        empty: Callable[[Any], None],
    ) -> None:
        self.options: Final = options
        self.noun: Final = noun
        self.count: Final = count
        self.adopt: Final = adopt
        self.make_empty: Final = make_empty
        self.fill: Final = fill
        self.empty: Final = empty


class Driver:
    """A driver of -device.

    `make(options, host)` creates the device: of a virtio driver a VirtioDevice, with the process's
    DeviceHost; of another PCI driver a PciFunction, with the board's PciDevices; of a driver on
    VIRTIO_SERIAL a port, with the board.  What `make` needs is imported by it, not before.
    """

    def __init__(
        self,
        name: str,
        options: type[DeviceOptions],
        make: Callable[[Any, Any], Any],
        *,
        bus: str,
        provides: str = "",
        device_id: int = 0,
        twin: str = "",
        noun_of_only: str = "",
        rings: int = 0,
        of_all: type[DeviceOptions] | None = None,
        hot: Callable[[], HotPlugged | HotReplaced] | None = None,
        aliases: tuple[str, ...] = (),
        native: tuple[str, ...] = (),
        calls: tuple[str, ...] = (),
    ) -> None:
        self.name: Final = name
        self.options: Final = options
        self.make: Final = make
        self.bus: Final = bus
        self.provides: Final = provides
        """The bus that its devices provide for others."""
        self.device_id: Final = device_id
        """Virtio device id; 0 for a device that is not a virtio device."""
        self.twin: Final = twin
        """The driver for the same device on another bus."""
        self.noun_of_only: Final = noun_of_only
        """What the device is called if a machine can have only one."""
        self.rings: Final = rings
        """The io_uring rings that may be made for it while the machine runs."""
        self.of_all: Final = of_all
        """Properties that -global gives to all its devices, keyed DRIVER.PROPERTY."""
        self._hot = hot
        self.native: Final = native
        """Extension modules that device_add needs; a locked-down machine loads none later."""
        self.calls: Final = calls
        """System calls that its devices make beyond the lists of the lockdown."""
        self.aliases: Final = aliases
        """Further names that device_add takes for it."""
        options.driver = self
        if of_all is not None:
            of_all.driver = self

    @property
    def is_hot(self) -> bool:
        """Whether device_add takes it."""
        return self._hot is not None

    @property
    def hot(self) -> HotPlugged | HotReplaced | None:
        """What device_add does with it; imported when it is asked for."""
        if self._hot is None:
            return None
        hot = self._hot()
        hot.options.driver = self
        return hot


def over_mmio_and_pci(
    stem: str,
    options: type[DeviceOptions],
    make: Callable[[Any, Any], Any],
    *,
    device_id: int,
    pci_place: type[VirtioPciPlace] = VirtioPciPlace,
    provides: str = "",
    noun_of_only: str = "",
    hot_replaced: Callable[[], HotReplaced] | None = None,
    hot_plugged: Callable[[], HotPlugged] | None = None,
    slot_aliases: tuple[str, ...] = (),
    native: tuple[str, ...] = (),
    calls: tuple[str, ...] = (),
) -> tuple[Driver, Driver]:
    """The drivers STEM-device and STEM-pci of a virtio device, with options for each bus."""
    names = {MMIO: f"{stem}-device", PCI: f"{stem}-pci"}
    places: dict[str, tuple[type[Options], ...]] = {MMIO: (), PCI: (pci_place,)}
    sent: tuple[type[Options], ...] = () if issubclass(options, Sent) else (Sent,)
    summary = (options.__doc__ or "").partition("\n")[0].removesuffix(".")

    def driver(
        bus: str,
        hot: Callable[[], HotPlugged | HotReplaced] | None,
        aliases: tuple[str, ...] = (),
    ) -> Driver:
        text = {"__doc__": f"{summary}, over {'MMIO' if bus == MMIO else 'PCI'}."}
        definition: type[DeviceOptions] = type(
            options.__name__, (*sent, *places[bus], options), text, flag=f"-device {names[bus]}"
        )
        return Driver(
            names[bus],
            definition,
            make,
            bus=bus,
            provides=provides,
            device_id=device_id,
            twin=names[PCI if bus == MMIO else MMIO],
            noun_of_only=noun_of_only,
            hot=hot,
            aliases=aliases,
            native=native,
            calls=calls,
        )

    return driver(MMIO, hot_replaced, slot_aliases), driver(PCI, hot_plugged)
