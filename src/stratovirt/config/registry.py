"""The drivers of -device by name: from a file of the package `drivers`, or from another package.

The driver virtio-blk-pci is in virtio_blk_pci.py, virtio_blk.py or virtio.py, whichever there is.
Another package names its module by an entry point of the group `stratovirt.devices`, whose own
name is used like a file's name; its drivers are for the command line, not for device_add.  A
module's drivers are its `DRIVERS`; it is imported when one of their names is met.  Entry points
are read when a name is in no file, and for listings.
"""

from __future__ import annotations

import _imp
import os
import sys
from importlib import import_module

from stratovirt.config.errors import ConfigError
from stratovirt.config.options import Family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from stratovirt.config.driver import Driver
    from stratovirt.config.options import Options

PACKAGE, HOT_PACKAGE = "stratovirt.drivers", "stratovirt.hotplug"
GROUP = "stratovirt.devices"
NAME_LONGEST = 64
"""A monitor's client may send any; the search for a longer name would take its square in time."""


def _files(package: str) -> list[str]:
    folders = import_module(package).__path__
    if not folders:
        # A static executable: its modules are no files.
        inside = f"{package}."
        names = _imp._frozen_module_names()  # type: ignore[attr-defined]
        return sorted(name[len(inside) :] for name in names if name.startswith(inside))
    names = os.listdir(folders[0])
    return sorted(name[:-3] for name in names if name.endswith(".py") and name != "__init__.py")


def _built_in() -> dict[str, str]:
    return {name: f"{PACKAGE}.{name}" for name in _files(PACKAGE)}


def installed() -> dict[str, str]:
    """The driver modules of other packages by the names of their entry points."""
    if not sys.path:
        # A static executable: there is no place where packages are installed.
        return {}
    from importlib.metadata import entry_points

    points = entry_points(group=GROUP)
    return {point.name.replace("-", "_"): point.value.partition(":")[0] for point in points}


class Modules:
    """Modules of drivers by name, read once, when they are first asked for."""

    def __init__(self, read: Callable[[], dict[str, str]]) -> None:
        self._read = read
        self._names: dict[str, str] | None = None

    def names(self) -> dict[str, str]:
        """The modules by name."""
        if self._names is None:
            self._names = self._read()
        return self._names

    def imported(self) -> list[str]:
        """Those that are imported already; nothing is read to find out."""
        return [module for module in (self._names or {}).values() if module in sys.modules]

    def find(self, driver: str) -> Driver | None:
        """The driver of this name; raises ConfigError for a module that cannot be imported."""
        name = driver.replace("-", "_") if len(driver) <= NAME_LONGEST else ""
        while name and name not in self.names():
            name = name.rpartition("_")[0]
        if not name:
            return None
        found = _drivers_of(self.names()[name])
        return next((d for d in found if driver in (*d.aliases, d.name)), None)


BUILT_IN = Modules(_built_in)
HOT = Modules(lambda: {name: BUILT_IN.names()[name] for name in _files(HOT_PACKAGE)})
"""Those for device_add, which have a file in `hotplug` as well."""
PLUG_INS = Modules(installed)


def _drivers_of(module: str) -> tuple[Driver, ...]:
    try:
        found: tuple[Driver, ...] = import_module(module).DRIVERS
    except Exception as error:
        # The module may be anybody's.
        text = f"{type(error).__name__}: {error}"
        raise ConfigError(f"-device: the driver module {module} cannot be used: {text}") from error
    return found


def find(name: str) -> Driver | None:
    """The driver that -device or device_add calls `name`; raises ConfigError."""
    return BUILT_IN.find(name) or PLUG_INS.find(name)


def hot_drivers() -> list[Driver]:
    """The drivers for device_add."""
    modules = HOT.names().values()
    return [driver for module in modules for driver in _drivers_of(module) if driver.is_hot]


def built_in() -> list[Driver]:
    """This package's drivers."""
    return [driver for module in BUILT_IN.names().values() for driver in _drivers_of(module)]


def drivers(*, may_import: bool = True) -> list[Driver]:
    """All drivers; those of a package that cannot be imported are left out, with a warning.

    Unless it `may_import`, no package is looked for, and only what runs already is listed: a
    process that is locked down would be ended by what another package's code does at first.
    """
    found = built_in()
    known = {driver.name for driver in found}
    for module in PLUG_INS.names().values() if may_import else PLUG_INS.imported():
        try:
            found += [driver for driver in _drivers_of(module) if driver.name not in known]
        except ConfigError as error:
            from stratovirt.runtime.log import Log

            Log(__name__).warn(str(error))
    return found


def name_of(bus: str, *, device_id: int = 0, provides: str = "") -> str:
    """The name of this package's driver on `bus` for a virtio device, or for providing a bus."""
    return next(
        driver.name
        for driver in built_in()
        if driver.bus == bus
        and device_id in (0, driver.device_id)
        and provides in ("", driver.provides)
    )


class AtStart(Family):
    """The options of each driver on the command line."""

    @property
    def variants(self) -> dict[str, type[Options]]:
        """The options of all drivers, by the driver's name."""
        return {driver.name: driver.options for driver in drivers()}

    def find(self, word: str) -> type[Options] | None:
        """The options of one driver; the others are not imported."""
        driver = find(word)
        return driver.options if driver is not None and driver.name == word else None


class AtRunTime(Family):
    """The options of each driver that device_add takes."""

    @property
    def variants(self) -> dict[str, type[Options]]:
        """The options of all drivers, by each of the driver's names."""
        return {
            name: hot.options
            for driver in hot_drivers()
            if (hot := driver.hot) is not None
            for name in (*driver.aliases, driver.name)
        }

    def find(self, word: str) -> type[Options] | None:
        """The options of one driver; the others are not imported."""
        driver = HOT.find(word)
        hot = driver.hot if driver is not None else None
        return hot.options if hot is not None else None


class OfAllDevices(Family):
    """Properties of all devices of a driver, each written DRIVER.PROPERTY=VALUE."""

    @property
    def variants(self) -> dict[str, type[Options]]:
        """The properties of this package's drivers, by the driver's name."""
        return {d.name: d.of_all for d in built_in() if d.of_all is not None}

    def find(self, word: str) -> type[Options] | None:
        """The properties of one driver; the others are not imported."""
        driver = find(word)
        return driver.of_all if driver is not None else None

    def parse(self, text: str, flag: str | None = None, **_defaults: str) -> Any:
        """Read ``DRIVER.PROPERTY=VALUE``; raises ConfigError."""
        definition = self.find(text.partition(".")[0])
        if definition is None:
            # It knows all properties, and this one is none of them.
            definition = type("Global", tuple(self.variants.values()), {}, flag=self.flag)
        return definition.parse(text, flag)


GLOBALS = OfAllDevices("-global", key="driver", noun="driver")
DRIVERS = AtStart("-device", key="driver", noun="driver")
HOT_DRIVERS = AtRunTime("device_add", key="driver", noun="driver")
"""device_add's drivers: for hot-replace slots and root ports."""
