"""The drivers of -device by name: each is in a file of the package `drivers`, found by its name.

The driver virtio-blk-pci is in virtio_blk_pci.py, virtio_blk.py or virtio.py, whichever there is;
a file's drivers are its `DRIVERS`.  A file is imported when one of its names is met.
"""

from __future__ import annotations

import os
from importlib import import_module

from stratovirt.config.options import Family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.config.driver import Driver
    from stratovirt.config.options import Options

PACKAGE = "stratovirt.drivers"
_FILES: list[str] = []


def files() -> list[str]:
    """The package's files without their suffix; read once, before a machine is locked down."""
    if not _FILES:
        folder = import_module(PACKAGE).__path__[0]
        names = (name.removesuffix(".py") for name in os.listdir(folder) if name.endswith(".py"))
        _FILES.extend(sorted(name for name in names if name != "__init__"))
    return _FILES


def find(name: str) -> Driver | None:
    """The driver that -device or device_add calls `name`."""
    file = name.replace("-", "_")
    while file and file not in files():
        file = file.rpartition("_")[0]
    if not file:
        return None
    return next((d for d in _drivers_of(file) if name in (*d.aliases, d.name)), None)


def drivers() -> list[Driver]:
    """All drivers; imports their files."""
    return [driver for file in files() for driver in _drivers_of(file)]


def _drivers_of(file: str) -> tuple[Driver, ...]:
    found: tuple[Driver, ...] = import_module(f"{PACKAGE}.{file}").DRIVERS
    return found


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
            for driver in drivers()
            if (hot := driver.hot) is not None
            for name in (*driver.aliases, driver.name)
        }

    def find(self, word: str) -> type[Options] | None:
        """The options of one driver; the others are not imported."""
        driver = find(word)
        hot = driver.hot if driver is not None else None
        return hot.options if hot is not None else None


DRIVERS = AtStart("-device", key="driver", noun="driver")
HOT_DRIVERS = AtRunTime("device_add", key="driver", noun="driver")
"""device_add's drivers: hot-replace slots of microvm, root ports of q35."""
