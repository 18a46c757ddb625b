"""Paths of the devices of -device in the tree of states."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class DevicePaths:
    """Names each device by its id, or by its driver and a number among those without an id."""

    def __init__(self) -> None:
        self._anonymous: dict[str, int] = {}

    def next(self, options: Any) -> str:
        """The path of the device of these options, which was named in no other call."""
        name: str | None = getattr(options, "id", None)
        if name is not None:
            return f"peripheral/{name}"
        driver: str = options.driver.name
        number = self._anonymous.get(driver, 0)
        self._anonymous[driver] = number + 1
        return f"peripheral-anon/{driver}[{number}]"
