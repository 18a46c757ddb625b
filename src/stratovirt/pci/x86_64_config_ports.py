"""Configuration space by ports 0xCF8 and 0xCFC (PCI Local Bus 3.0, section 3.2.2.3.2)."""

from __future__ import annotations

from stratovirt.config.options import opt
from stratovirt.snapshot.state import U8, U32, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stratovirt.pci.host_bridge import PciHost

CONFIG_ADDRESS, CONFIG_DATA = 0, 4
"""Offsets from port 0xCF8."""
PORTS = 8
CONFIG_ENABLE, ADDRESS_RESERVED = 1 << 31, 0x7F00_0003
RESET_CONTROL = 1
"""Port 0xCF9, within the address register but only as a byte (ICH9, section 13.7.5)."""
RESET_CPU, RESET_FULL = 1 << 2, 1 << 1


class ConfigPortsState(State):
    """The selected register, and reset control."""

    address: int = opt(U32)
    reset_control: int = opt(U8)


class ConfigPorts:
    """Ports 0xCF8 to 0xCFF, and the reset control register among them."""

    state_type = ConfigPortsState

    def __init__(self, host: PciHost, reset: Callable[[], None]) -> None:
        self._host = host
        self._reset = reset
        self._address = 0
        self._reset_control = 0

    def power_on(self) -> None:
        """Set the registers to power-on state."""
        self._address = self._reset_control = 0

    def save(self) -> ConfigPortsState:
        """The registers."""
        return ConfigPortsState(address=self._address, reset_control=self._reset_control)

    def restore(self, state: ConfigPortsState) -> None:
        """Set the registers, as far as a guest could have."""
        self._address = state.address & ~ADDRESS_RESERVED
        self._reset_control = state.reset_control & RESET_FULL

    def read(self, offset: int, size: int) -> int:
        """The address register as a whole, reset control as a byte, or data."""
        if offset == RESET_CONTROL and size == 1:
            return self._reset_control
        if offset < CONFIG_DATA:
            return self._address if size == 4 else (1 << 8 * size) - 1
        if not self._address & CONFIG_ENABLE:
            return (1 << 8 * size) - 1
        return self._host.read_config(*self._target(offset), size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Select a register, write to it, or reset the machine."""
        if offset == RESET_CONTROL and size == 1:
            self._reset_control = value & RESET_FULL
            if value & RESET_CPU:
                self._reset()
        elif offset < CONFIG_DATA:
            if size == 4:
                self._address = value & ~ADDRESS_RESERVED
        elif self._address & CONFIG_ENABLE:
            self._host.write_config(*self._target(offset), size, value)

    def _target(self, offset: int) -> tuple[int, int, int]:
        register = self._address & 0xFC | offset - CONFIG_DATA
        return self._address >> 16 & 0xFF, self._address >> 8 & 0xFF, register
