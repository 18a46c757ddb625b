"""The chipset parts that firmware and Linux use: MCH, and the LPC bridge with its ACPI block.

Intel 3 Series Express Chipset (the MCH) and I/O Controller Hub 9 (ICH9) data sheets.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod

from stratovirt.config.kinds import Integer
from stratovirt.config.options import opt
from stratovirt.memory.address_space import AddressSpace, IoRegion
from stratovirt.pci import config_space as regs
from stratovirt.pci.function import PciFunction
from stratovirt.snapshot.state import U16, U32, U64, Bytes, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from stratovirt.memory.address_space import Handler
    from stratovirt.runtime.clock import Clock

INTEL = 0x8086
MCH, LPC = 0x29C0, 0x2918
CLASS_HOST_BRIDGE, CLASS_ISA_BRIDGE = 0x060000, 0x060100

PCIEXBAR, PAM0 = 0x60, 0x90
PCIEXBAR_ENABLE = 1
PCIEXBAR_LENGTHS = {0: 256 << 20, 2: 128 << 20, 4: 64 << 20}
PCIEXBAR_LENGTH_MASK = 6
PCIEXBAR_BASE_MASK = 0xF_FC00_0000

PMBASE, ACPI_CONTROL, PIRQ_A, PIRQ_E, GEN_PMCON, RCBA = 0x40, 0x44, 0x60, 0x68, 0xA0, 0xF0
ACPI_ENABLE = 1 << 7
PMBASE_MASK = 0xFF80
PIRQ_DISABLED = 0x80

PM_BYTES = 0x80
PM1_STATUS, PM1_ENABLE, PM1_CONTROL, PM_TIMER = 0x00, 0x02, 0x04, 0x08
GPE0, GPE0_BYTES = 0x20, 16
SMI_ENABLE = 0x30
POWER_BUTTON = 1 << 8
PM1_STATUS_BITS = 1 << 0 | 1 << 5 | POWER_BUTTON | 1 << 10 | 1 << 15
PM1_ENABLE_BITS = 1 << 0 | 1 << 5 | POWER_BUTTON | 1 << 10
SCI_ENABLED, SLEEP_ENABLE = 1 << 0, 1 << 13
SLEEP_TYPE_SHIFT, SLEEP_TYPE_MASK = 10, 7
SLEEP_TYPE_S5 = 0
"""The value that this machine's \\_S5 object gives."""
TIMER_HZ, TIMER_MASK = 3_579_545, 0xFF_FFFF
TIMER_PERIOD_NS = (TIMER_MASK + 1) * 1_000_000_000 // TIMER_HZ
"""After so long, 4.7 s, the timer has the value again."""


class MovableRegion:
    """A region whose address is set by a configuration register; it may be unmapped."""

    def __init__(self, space: AddressSpace, name: str, handler: Handler) -> None:
        self._space, self._name, self._handler = space, name, handler
        self._region: IoRegion | None = None
        self.place: tuple[int, int] | None = None
        """(base, size) where it is mapped; None while it is not."""

    def move(self, place: tuple[int, int] | None) -> None:
        """Map it at (base, size); unmap it for None, or if the range is taken."""
        if place == self.place:
            return
        if self._region is not None:
            self._space.remove(self._region)
            self._region = None
        self.place = place
        if place is not None:
            region = IoRegion(self._name, place[1], self._handler)
            try:
                self._space.add(place[0], region, priority=-1)
                self._region = region
            except ValueError:
                self.place = None
        self._space.commit()


class PlacingFunction(PciFunction, ABC):
    """A function whose configuration space places other registers; they are off after a reset."""

    def write_config(self, offset: int, size: int, value: int) -> None:
        """Write configuration space, and move the registers if their place has changed."""
        super().write_config(offset, size, value)
        self._place()

    def restore(self, state: Any) -> None:
        """Restore configuration space, and with it the registers' place; raises SnapshotError."""
        super().restore(state)
        self._place()

    def reset(self) -> None:
        """Reset to power-on state."""
        super().reset()
        self._place()

    @abstractmethod
    def _place(self) -> None:
        """Map the registers where configuration space says, or not at all."""


class Mch(PlacingFunction):
    """The host bridge (MCH), whose PCIEXBAR register places ECAM."""

    def __init__(self, memory: AddressSpace, ecam: Handler) -> None:
        super().__init__(
            "mch",
            vendor=INTEL,
            device=MCH,
            class_code=CLASS_HOST_BRIDGE,
            subsystem=regs.BOARD_SUBSYSTEM,
        )
        self._ecam = MovableRegion(memory, "ecam", ecam)
        self.config.allow(PCIEXBAR, 8, PCIEXBAR_BASE_MASK | PCIEXBAR_LENGTH_MASK | PCIEXBAR_ENABLE)
        # Shadowing of BIOS areas: all of low RAM is RAM here, so it changes nothing.
        self.config.allow(PAM0, 7, 0x33333333333330)
        self.config.keep()

    @property
    def ecam(self) -> tuple[int, int] | None:
        """(base, size) of ECAM, None while it is off."""
        return self._ecam.place

    def set_ecam(self, base: int) -> None:
        """Place ECAM as firmware would."""
        self.config.set(PCIEXBAR, 8, base | PCIEXBAR_ENABLE)
        self._place()

    def _place(self) -> None:
        value = self.config.get(PCIEXBAR, 8)
        length = PCIEXBAR_LENGTHS.get(value & PCIEXBAR_LENGTH_MASK)
        is_on = value & PCIEXBAR_ENABLE and length is not None
        base = value & PCIEXBAR_BASE_MASK
        self._ecam.move((base & -length, length) if is_on and length else None)


class PowerManagementState(State):
    """Registers of the ACPI block; times in ns, `realtime` since 1970."""

    status: int = opt(U16)
    enable: int = opt(U16)
    control: int = opt(U16)
    gpe: bytes = opt(Bytes(GPE0_BYTES))
    smi_enable: int = opt(U32)
    timer_ns: int = opt(Integer(0, TIMER_PERIOD_NS), help="what the timer had counted")
    realtime: int = opt(U64, help="the host's time of day then")


class PowerManagement:
    """The ACPI block (ICH9, section 13.8): fixed events, sleep, and the power management timer.

    The timer's overflow event is not implemented: systems that read the timer do not enable it.
    """

    state_type = PowerManagementState

    def __init__(
        self, clock: Clock, set_sci: Callable[[bool], None], power_off: Callable[[], None]
    ) -> None:
        self._clock = clock
        self._set_sci = set_sci
        self._power_off = power_off
        self._start_ns = clock.now_ns()
        self.reset()

    def reset(self) -> None:
        """As after power-on."""
        self._status = self._enable = self._control = 0
        self._gpe = bytearray(GPE0_BYTES)
        self._smi_enable = 0
        self._update()

    def save(self) -> PowerManagementState:
        """The registers, and what the timer has counted."""
        return PowerManagementState(
            status=self._status, enable=self._enable, control=self._control,
            gpe=bytes(self._gpe), smi_enable=self._smi_enable,
            timer_ns=self._ticks() * 1_000_000_000 // TIMER_HZ, realtime=time.time_ns(),
        )  # fmt: skip

    def restore(self, state: PowerManagementState) -> None:
        """Set the registers; the timer has gone on, as the other clocks do."""
        self._status = state.status & PM1_STATUS_BITS
        self._enable = state.enable & PM1_ENABLE_BITS
        self._control = state.control & SLEEP_TYPE_MASK << SLEEP_TYPE_SHIFT
        self._gpe[:] = bytes(GPE0_BYTES // 2) + state.gpe[GPE0_BYTES // 2 :].ljust(
            GPE0_BYTES // 2, b"\0"
        )
        self._smi_enable = state.smi_enable
        elapsed_ns = max(0, time.time_ns() - state.realtime)
        self._start_ns = self._clock.now_ns() - state.timer_ns - elapsed_ns
        self._update()

    def press_power_button(self) -> None:
        """The fixed event of the power button (ACPI 6.5, section 4.8.3.2)."""
        self._status |= POWER_BUTTON
        self._update()

    def _update(self) -> None:
        self._set_sci(bool(self._status & self._enable))

    def _ticks(self) -> int:
        elapsed = self._clock.now_ns() - self._start_ns
        return elapsed * TIMER_HZ // 1_000_000_000 & TIMER_MASK

    def read(self, offset: int, size: int) -> int:
        """Any register, at any width."""
        block = bytearray(PM_BYTES)
        words = {
            PM1_STATUS: (self._status, 2),
            PM1_ENABLE: (self._enable, 2),
            PM1_CONTROL: (self._control | SCI_ENABLED, 4),
            PM_TIMER: (self._ticks(), 4),
            SMI_ENABLE: (self._smi_enable, 4),
        }
        for at, (value, width) in words.items():
            block[at : at + width] = value.to_bytes(width, "little")
        block[GPE0 : GPE0 + GPE0_BYTES] = self._gpe
        return int.from_bytes(block[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        """A register, by the widths that ACPI uses; a double word at status writes enable too."""
        if offset == PM1_STATUS:
            self._status &= ~(value & PM1_STATUS_BITS)
            if size == 4:
                self._enable = value >> 16 & PM1_ENABLE_BITS
            self._update()
        elif offset == PM1_ENABLE:
            self._enable = value & PM1_ENABLE_BITS
            self._update()
        elif offset == PM1_CONTROL and size >= 2:
            self._control = value & SLEEP_TYPE_MASK << SLEEP_TYPE_SHIFT
            sleep_type = value >> SLEEP_TYPE_SHIFT & SLEEP_TYPE_MASK
            if value & SLEEP_ENABLE and sleep_type == SLEEP_TYPE_S5:
                self._power_off()
        elif offset == SMI_ENABLE:
            self._smi_enable = value & 0xFFFF_FFFF
        elif GPE0 <= offset < GPE0 + GPE0_BYTES:
            self._write_gpe(offset - GPE0, value.to_bytes(size, "little"))

    def _write_gpe(self, offset: int, content: bytes) -> None:
        """Status bits, which nothing sets, are cleared by ones; enable bits are kept."""
        for at, byte in enumerate(content, start=offset):
            if GPE0_BYTES // 2 <= at < GPE0_BYTES:
                self._gpe[at] = byte


class LpcBridge(PlacingFunction):
    """The ISA bridge (LPC), whose PMBASE register places the ACPI block."""

    def __init__(self, ports: AddressSpace, power: PowerManagement) -> None:
        super().__init__(
            "lpc", vendor=INTEL, device=LPC, class_code=CLASS_ISA_BRIDGE, revision=2,
            subsystem=regs.BOARD_SUBSYSTEM,
        )  # fmt: skip
        self._block = MovableRegion(ports, "pm", power)
        config = self.config
        # The bridge itself cannot be switched off.
        config.set(regs.COMMAND, 2, regs.COMMAND_IO | regs.COMMAND_MEMORY | regs.COMMAND_MASTER)
        config.allow(regs.COMMAND, 2, 0)
        config.set(regs.HEADER_TYPE, 1, regs.MULTIFUNCTION)
        config.set(PMBASE, 4, 1)
        config.allow(PMBASE, 4, PMBASE_MASK)
        config.allow(ACPI_CONTROL, 1, ACPI_ENABLE | 7)
        for register in (PIRQ_A, PIRQ_E):
            config.set(register, 4, PIRQ_DISABLED * 0x0101_0101)
            config.allow(register, 4, 0x8F8F_8F8F)
        config.allow(GEN_PMCON, 2, 0xFFFF)
        config.allow(RCBA, 4, 0xFFFF_C001)
        config.keep()

    def set_block(self, base: int) -> None:
        """Place the ACPI block as firmware would."""
        self.config.set(PMBASE, 4, base | 1)
        self.config.set(ACPI_CONTROL, 1, ACPI_ENABLE)
        self._place()

    def _place(self) -> None:
        base = self.config.get(PMBASE, 4) & PMBASE_MASK
        is_on = self.config.get(ACPI_CONTROL, 1) & ACPI_ENABLE and base
        self._block.move((base, PM_BYTES) if is_on else None)
