"""A PCI Express root port with one slot that can be plugged and unplugged (section 6.7)."""

from __future__ import annotations

import os

from stratovirt.pci import config_space as regs
from stratovirt.pci import express
from stratovirt.pci.bus import PciBus
from stratovirt.pci.function import PciFunction
from stratovirt.pci.msix import add_msix
from stratovirt.pci.state import RootPortState
from stratovirt.runtime.eventfds import has_signal, new_eventfd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from stratovirt.accel.base import Accelerator
    from stratovirt.pci.contracts import Host

VENDOR, DEVICE = 0x1B36, 0x000C
CLASS_PCI_BRIDGE = 0x060400
HEADER_BRIDGE = 1

PRIMARY, SECONDARY, SUBORDINATE = 0x18, 0x19, 0x1A
IO_BASE, IO_LIMIT, SECONDARY_STATUS = 0x1C, 0x1D, 0x1E
MEMORY_BASE, MEMORY_LIMIT = 0x20, 0x22
PREFETCHABLE_BASE, PREFETCHABLE_LIMIT = 0x24, 0x26
PREFETCHABLE_BASE_HIGH, PREFETCHABLE_LIMIT_HIGH = 0x28, 0x2C
BRIDGE_CONTROL = 0x3E
WINDOW_64_BIT = 1
BUS_RESET = 1 << 6

ATTENTION_BUTTON, POWER_CONTROLLER = 1 << 0, 1 << 1
ATTENTION_INDICATOR, POWER_INDICATOR = 1 << 3, 1 << 4
SURPRISE, HOTPLUG, NO_COMMAND_COMPLETED = 1 << 5, 1 << 6, 1 << 18
SLOT_NUMBER_SHIFT = 19

CONTROL_WRITABLE = 0x1FFF
INTERRUPT_ENABLE = 1 << 5
POWER_INDICATOR_MASK = 3 << 8
POWER_INDICATOR_ON, POWER_INDICATOR_BLINK, POWER_INDICATOR_OFF = 1 << 8, 2 << 8, 3 << 8
ATTENTION_INDICATOR_OFF = 3 << 6
POWER_OFF = 1 << 10
LINK_CHANGE_ENABLE = 1 << 12

BUTTON_PRESSED, PRESENCE_CHANGED, LINK_CHANGED = 1 << 0, 1 << 3, 1 << 8
PRESENT = 1 << 6
STATUS_EVENTS = 0x11F


class SecondaryBus(PciBus):
    """The bus behind a root port; the guest assigns its number."""

    def __init__(self, name: str, host: Host, port: RootPort) -> None:
        super().__init__(name, host, slots=1)
        self._port = port

    @property
    def number(self) -> int:
        """The bus number in configuration cycles; 0 while none is assigned."""
        return self._port.config.get(SECONDARY, 1)

    def gsi(self, devfn: int, pin: int) -> int:
        """The GSI of a pin, swizzled by slot through the port (PCI-to-PCI bridge, section 9.1)."""
        assert self._port.bus is not None
        turned = ((devfn >> 3) + pin - 1) % 4 + 1
        return self._port.bus.gsi(self._port.devfn, turned)


class RootPort(PciFunction):
    """The root port; `released` is called when the guest has released a device to be unplugged.

    With `fast_unplug` the slot reports its card absent while the card still answers, so that
    the guest releases it at once instead of blinking for five seconds.
    """

    bars_count = 2
    state_type = RootPortState

    def __init__(
        self,
        name: str,
        host: Host,
        accelerator: Accelerator,
        *,
        port: int,
        fast_unplug: bool,
    ) -> None:
        super().__init__(name, vendor=VENDOR, device=DEVICE, class_code=CLASS_PCI_BRIDGE)
        self.secondary = SecondaryBus(name, host, self)
        self.fast_unplug = fast_unplug
        self.released: Callable[[], None] = lambda: None
        self.is_unplugging = False
        """Whether an unplug was requested and the guest has not released the device yet."""
        self._event_fd = new_eventfd()
        self._set_up_bridge()
        self._express = express.add_express(self, express.ROOT_PORT, port=port)
        self._set_up_slot(port)
        add_msix(self, accelerator, 1, 0).attach(self._event_fd, 0)
        self.config.keep()

    def _set_up_bridge(self) -> None:
        config = self.config
        config.set(regs.HEADER_TYPE, 1, HEADER_BRIDGE)
        for register in (PRIMARY, SECONDARY, SUBORDINATE):
            config.allow(register, 1, 0xFF)
        for register in (IO_BASE, IO_LIMIT):
            config.allow(register, 1, 0xF0)
        for register in (MEMORY_BASE, MEMORY_LIMIT, PREFETCHABLE_BASE, PREFETCHABLE_LIMIT):
            config.allow(register, 2, 0xFFF0)
        for register in (PREFETCHABLE_BASE, PREFETCHABLE_LIMIT):
            config.set(register, 2, WINDOW_64_BIT)
        for register in (PREFETCHABLE_BASE_HIGH, PREFETCHABLE_LIMIT_HIGH):
            config.allow(register, 4, 0xFFFF_FFFF)
        config.allow_clearing(SECONDARY_STATUS, 2, regs.STATUS_WRITE_ONE_TO_CLEAR)
        config.allow(BRIDGE_CONTROL, 2, 0x5F)
        # Subsystem ids of a bridge are in a capability of their own, which this one lacks.
        config.set(regs.SUBSYSTEM_VENDOR, 4, 0)

    def _set_up_slot(self, port: int) -> None:
        config, at = self.config, self._express
        config.set(
            at + express.SLOT_CAPABILITIES,
            4,
            ATTENTION_BUTTON | POWER_CONTROLLER | ATTENTION_INDICATOR | POWER_INDICATOR
            | SURPRISE | HOTPLUG | NO_COMMAND_COMPLETED | port << SLOT_NUMBER_SHIFT,
        )  # fmt: skip
        config.allow(at + express.SLOT_CONTROL, 2, CONTROL_WRITABLE)
        config.allow_clearing(at + express.SLOT_STATUS, 2, STATUS_EVENTS)
        config.allow_device(at + express.SLOT_STATUS, 2, PRESENT)
        config.allow_device(at + express.LINK_STATUS, 2, express.LINK_ACTIVE)
        config.allow(at + express.ROOT_CONTROL, 2, 0x1F)
        self._show_slot()

    def set_numbers(self, bus_number: int) -> None:
        """Number the single bus behind the port as firmware would."""
        self.config.set(SECONDARY, 1, bus_number)
        self.config.set(SUBORDINATE, 1, bus_number)

    @property
    def is_present(self) -> bool:
        """Whether the slot holds a device."""
        return bool(self.secondary.functions)

    def _show_slot(self) -> None:
        """Set presence, link, power and indicator registers to the slot's present state."""
        config, at = self.config, self._express
        is_present = self.is_present
        config.change(at + express.SLOT_STATUS, 2, PRESENT, PRESENT if is_present else 0)
        config.change(
            at + express.LINK_STATUS,
            2,
            express.LINK_ACTIVE,
            express.LINK_ACTIVE if is_present else 0,
        )
        power = POWER_INDICATOR_ON if is_present else POWER_INDICATOR_OFF | POWER_OFF
        config.set(at + express.SLOT_CONTROL, 2, ATTENTION_INDICATOR_OFF | power)

    def plugged(self) -> None:
        """Signal the guest that a device was plugged in."""
        config, at = self.config, self._express
        if not config.get(at + express.SLOT_CONTROL, 2) & INTERRUPT_ENABLE:
            # No hotplug driver would switch the slot's power on: the guest has not started, or is
            # firmware, and finds the card as if present at power-on.
            self._show_slot()
        config.change(at + express.SLOT_STATUS, 2, 0, PRESENT)
        config.change(at + express.LINK_STATUS, 2, 0, express.LINK_ACTIVE)
        self._raise(BUTTON_PRESSED | PRESENCE_CHANGED | LINK_CHANGED)

    def request_unplug(self) -> None:
        """Request an unplug; `released` is called now, or when the guest releases the device."""
        if self._is_off:
            self.released()
            return
        self.is_unplugging = True
        if self.fast_unplug:
            self._show_empty()
        else:
            self._raise(BUTTON_PRESSED)

    def _show_empty(self) -> None:
        config, at = self.config, self._express
        config.change(at + express.SLOT_STATUS, 2, PRESENT, 0)
        config.change(at + express.LINK_STATUS, 2, express.LINK_ACTIVE, 0)
        self._raise(PRESENCE_CHANGED | LINK_CHANGED)

    def unplugged(self) -> None:
        """Signal the guest that the slot is empty."""
        self.is_unplugging = False
        self._show_empty()

    @property
    def _obstacles(self) -> tuple[bool, bool]:
        """(in reset, powered off): states of bus and slot that keep the device from running."""
        control = self.config.get(self._express + express.SLOT_CONTROL, 2)
        in_reset = bool(self.config.get(BRIDGE_CONTROL, 2) & BUS_RESET)
        return in_reset, bool(control & POWER_OFF)

    @property
    def _is_blinking(self) -> bool:
        control = self.config.get(self._express + express.SLOT_CONTROL, 2)
        return control & POWER_INDICATOR_MASK == POWER_INDICATOR_BLINK

    @property
    def _is_on(self) -> bool:
        control = self.config.get(self._express + express.SLOT_CONTROL, 2)
        return control & (POWER_OFF | POWER_INDICATOR_MASK) == POWER_INDICATOR_ON

    @property
    def _is_off(self) -> bool:
        control = self.config.get(self._express + express.SLOT_CONTROL, 2)
        indicator = control & POWER_INDICATOR_MASK
        return bool(control & POWER_OFF) and indicator == POWER_INDICATOR_OFF

    def _raise(self, events: int) -> None:
        before = self._wanted_events
        self.config.change(self._express + express.SLOT_STATUS, 2, 0, events)
        self._interrupt(before)

    @property
    def _wanted_events(self) -> int:
        """Slot status events that are set and for which the guest has enabled the interrupt."""
        control = self.config.get(self._express + express.SLOT_CONTROL, 2)
        if not control & INTERRUPT_ENABLE:
            return 0
        enabled = control & STATUS_EVENTS & ~LINK_CHANGED
        if control & LINK_CHANGE_ENABLE:
            enabled |= LINK_CHANGED
        return self.config.get(self._express + express.SLOT_STATUS, 2) & enabled

    def _interrupt(self, before: int) -> None:
        if self._wanted_events & ~before:
            os.eventfd_write(self._event_fd, 1)

    def write_config(self, offset: int, size: int, value: int) -> None:
        """Write bridge and slot registers; by power off the guest releases the device."""
        was_off, before = self._is_off, self._wanted_events
        obstacles, was_blinking = self._obstacles, self._is_blinking
        number = self.secondary.number
        super().write_config(offset, size, value)
        if any(now and not before for now, before in zip(self._obstacles, obstacles, strict=True)):
            self.secondary.reset()
        if self.secondary.number != number:
            self.secondary.renumbered()
        if was_blinking and self._is_on:
            # The guest has cancelled the unplug, which may be requested again.
            self.is_unplugging = False
        if self._is_off and not was_off and self.is_present and self.is_unplugging:
            self.released()
        self._interrupt(before)

    def reset(self) -> None:
        """Reset to power-on state; an unplug that the guest has not answered is completed now."""
        if self.is_unplugging:
            self.released()
        super().reset()
        self._show_slot()

    def _saved(self) -> dict[str, Any]:
        return super()._saved() | {
            "is_unplugging": self.is_unplugging,
            "is_signalled": has_signal(self._event_fd),
        }

    def restore(self, state: RootPortState) -> None:
        """Restore bridge and slot; what is in the slot is restored by itself."""
        super().restore(state)
        self.secondary.renumbered()
        self.is_unplugging = state.is_unplugging
        if state.is_signalled:
            os.eventfd_write(self._event_fd, 1)

    def close(self) -> None:
        """Detach and close the eventfd."""
        if self.msix is not None:
            self.msix.detach(self._event_fd)
        os.close(self._event_fd)
