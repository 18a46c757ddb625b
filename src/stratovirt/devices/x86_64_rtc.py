"""Real-time clock and battery-backed memory (Motorola MC146818A), ports 0x70 and 0x71."""

from __future__ import annotations

import time

from stratovirt.config.kinds import Integer
from stratovirt.config.options import opt
from stratovirt.snapshot.errors import SnapshotError
from stratovirt.snapshot.state import U8, Bytes, Each, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stratovirt.runtime.clock import Clock
    from stratovirt.runtime.loop import Loop, Timer

INDEX, DATA = 0, 1
PORTS = 2
CMOS_BYTES = 128
SECONDS, SECONDS_ALARM, MINUTES, MINUTES_ALARM, HOURS, HOURS_ALARM = range(6)
WEEKDAY, DAY, MONTH, YEAR = range(6, 10)
REG_A, REG_B, REG_C, REG_D = range(10, 14)
CENTURY = 0x32
EXTENDED_LOW, EXTENDED_HIGH = 0x30, 0x34
"""KiB above 1 MiB, at most 63 MiB; and 64 KiB units above 16 MiB."""
HIGH_MEMORY = 0x5B
"""64 KiB units above 4 GiB, three bytes."""
LAST_CPU = 0x5F

DIVIDER_32_KHZ = 0x26
B_SET, B_ALARM, B_UPDATE, B_BINARY, B_24_HOURS = 1 << 7, 1 << 5, 1 << 4, 1 << 2, 1 << 1
C_REQUEST, C_ALARM, C_UPDATE = 1 << 7, 1 << 5, 1 << 4
D_VALID = 1 << 7
ALARM_ANY = 0xC0
PM = 0x80
SECOND_NS = 1_000_000_000
TIME_REGISTERS = (SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY)
FIRST_SECOND, LAST_SECOND = -62_135_596_800, 253_402_300_799
"""The years 1 to 9999, in seconds since 1970."""
DATE_FIELDS = 9
"""Of a struct_time."""
FIELD_MOST = 9999
"""Largest field of a date: a year; the others are what a register holds."""
MOST_PASSED = 100 * 366 * 86400
"""Seconds for which a clock that a guest has set may go on and be saved."""


class RtcState(State):
    """Memory, interrupt registers, and the guest's time of day."""

    index: int = opt(U8)
    memory: bytes = opt(Bytes(CMOS_BYTES))
    b: int = opt(U8)
    c: int = opt(U8)
    ahead_ms: int = opt(
        Integer(-LAST_SECOND * 2000, LAST_SECOND * 2000), help="of the host's time of day"
    )
    frozen: list[int] = opt(
        Each(Integer(0, FIELD_MOST), DATE_FIELDS),
        help="the date that the guest is setting, as struct tm has it; empty while time passes",
    )


class Rtc:
    """Time of day in UTC, which the guest may set for itself; alarm and update interrupts."""

    state_type = RtcState

    def __init__(
        self, clock: Clock, loop: Loop, set_irq: Callable[[bool], None], ram: list[tuple[int, int]]
    ) -> None:
        self._clock, self._loop, self._set_irq = clock, loop, set_irq
        self._offset_s = time.time() - clock.now_ns() / SECOND_NS
        self._memory = bytearray(CMOS_BYTES)
        self._fill_sizes(ram)
        self._timer: Timer | None = None
        self._index = 0
        self._frozen: time.struct_time | None = None
        self._b, self._c = B_24_HOURS, 0

    def _fill_sizes(self, ram: list[tuple[int, int]]) -> None:
        low = ram[0][1]
        memory = self._memory
        memory[0x15:0x17] = (640).to_bytes(2, "little")
        extended = min((low - (1 << 20)) >> 10, 63 << 10)
        for at in (0x17, EXTENDED_LOW):
            memory[at : at + 2] = extended.to_bytes(2, "little")
        above = max(0, low - (16 << 20)) >> 16
        memory[EXTENDED_HIGH : EXTENDED_HIGH + 2] = min(above, 0xFFFF).to_bytes(2, "little")
        high = sum(size for _, size in ram[1:]) >> 16
        memory[HIGH_MEMORY : HIGH_MEMORY + 3] = high.to_bytes(3, "little")

    def set_last_cpu(self, index: int) -> None:
        """Set the index of the last vCPU, which firmware reads."""
        self._memory[LAST_CPU] = index

    def reset(self) -> None:
        """Reset to power-on state: interrupts are off; the time is kept."""
        self._index = 0
        self._b, self._c = B_24_HOURS, 0
        self._frozen = None
        self._set_irq(False)

    def save(self) -> RtcState:
        """The registers, and how far the guest's time is ahead of the host's."""
        ahead_s = self._offset_s + self._clock.now_ns() / SECOND_NS - time.time()
        return RtcState(
            index=self._index, memory=bytes(self._memory), b=self._b, c=self._c,
            ahead_ms=round(ahead_s * 1000), frozen=list(self._frozen or ()),
        )  # fmt: skip

    def restore(self, state: RtcState) -> None:
        """Set the registers; raises SnapshotError for a time that no clock shows."""
        now_s = time.time() + state.ahead_ms / 1000
        latest = LAST_SECOND + MOST_PASSED
        if not FIRST_SECOND <= now_s <= latest or len(state.frozen) not in (0, DATE_FIELDS):
            raise SnapshotError("rtc: the snapshot's time of day is damaged")
        if len(state.memory) != CMOS_BYTES:
            raise SnapshotError("rtc: the snapshot's memory is damaged")
        self._index = state.index & CMOS_BYTES - 1
        self._memory[:] = state.memory
        self._offset_s = now_s - self._clock.now_ns() / SECOND_NS
        self._frozen = time.struct_time(state.frozen) if state.frozen else None
        self._b, self._c = state.b, state.c
        self._set_irq(bool(self._c & C_REQUEST))
        self._schedule()

    def _now(self) -> time.struct_time:
        if self._frozen is not None:
            return self._frozen
        return time.gmtime(self._offset_s + self._clock.now_ns() / SECOND_NS)

    def read(self, offset: int, size: int) -> int:
        """The selected register or memory byte."""
        if offset != DATA or size != 1:
            return 0xFF
        if self._index in TIME_REGISTERS:
            return self._read_time(self._index)
        if self._index == REG_A:
            return DIVIDER_32_KHZ
        if self._index == REG_B:
            return self._b
        if self._index == REG_C:
            value, self._c = self._c, 0
            self._set_irq(False)
            return value
        if self._index == REG_D:
            return D_VALID
        return self._memory[self._index]

    def write(self, offset: int, size: int, value: int) -> None:
        """Select a byte, or store to it."""
        if size != 1:
            return
        if offset == INDEX:
            self._index = value & (CMOS_BYTES - 1)
        elif self._index in TIME_REGISTERS:
            self._write_time(self._index, value)
        elif self._index == REG_B:
            self._write_b(value)
        elif self._index not in (REG_A, REG_C, REG_D):
            self._memory[self._index] = value

    def _encode(self, value: int) -> int:
        # A field that is no date's, such as a 165th day, has no BCD of one byte.
        return (value if self._b & B_BINARY else value // 10 << 4 | value % 10) & 0xFF

    def _decode(self, value: int) -> int:
        return value if self._b & B_BINARY else (value >> 4) * 10 + (value & 0xF)

    def _hour(self, hour: int) -> int:
        if self._b & B_24_HOURS:
            return self._encode(hour)
        return self._encode((hour + 11) % 12 + 1) | (PM if hour >= 12 else 0)

    def _read_time(self, register: int) -> int:
        now = self._now()
        if register == HOURS:
            return self._hour(now.tm_hour)
        fields = {
            SECONDS: min(now.tm_sec, 59), MINUTES: now.tm_min, WEEKDAY: (now.tm_wday + 1) % 7 + 1,
            DAY: now.tm_mday, MONTH: now.tm_mon, YEAR: now.tm_year % 100,
            CENTURY: now.tm_year // 100,
        }  # fmt: skip
        return self._encode(fields[register])

    def _write_time(self, register: int, value: int) -> None:
        now = list(self._now())
        number = self._decode(value & ~PM if register == HOURS else value)
        if register == HOURS and not self._b & B_24_HOURS:
            number = number % 12 + (12 if value & PM else 0)
        # Both have two digits; what a guest writes beyond them is left out.
        if register == YEAR:
            number = now[0] // 100 % 100 * 100 + number % 100
        if register == CENTURY:
            number = number % 100 * 100 + now[0] % 100
        place = {SECONDS: 5, MINUTES: 4, HOURS: 3, DAY: 2, MONTH: 1, YEAR: 0, CENTURY: 0}
        if register not in place:
            return  # the day of the week follows from the date
        now[place[register]] = number
        changed = time.struct_time(now)
        if self._frozen is not None:
            self._frozen = changed
        else:
            self._set_time(changed)

    def _set_time(self, wanted: time.struct_time) -> None:
        import calendar

        try:
            seconds = calendar.timegm(wanted)
        except (ValueError, OverflowError):
            return  # a date that no calendar has
        if not FIRST_SECOND <= seconds <= LAST_SECOND:
            return  # days beyond the last month of all
        self._offset_s = seconds - self._clock.now_ns() / SECOND_NS

    def _write_b(self, value: int) -> None:
        if value & B_SET and self._frozen is None:
            self._frozen = self._now()
        elif not value & B_SET and self._frozen is not None:
            frozen, self._frozen = self._frozen, None
            self._set_time(frozen)
        self._b = value
        if value & (B_ALARM | B_UPDATE) and self._timer is None:
            # From a vCPU's thread: timers belong to the loop's.
            self._loop.call_soon(self._schedule)

    def _schedule(self) -> None:
        if self._timer is None and self._b & (B_ALARM | B_UPDATE):
            self._timer = self._clock.call_at(self._clock.now_ns() + SECOND_NS, self._tick)

    def _tick(self) -> None:
        """One second has passed, while an interrupt is wanted."""
        self._timer = None
        flags = C_UPDATE | (C_ALARM if self._is_alarm() else 0)
        self._c |= flags
        if flags & self._b:
            self._c |= C_REQUEST
            self._set_irq(True)
        self._schedule()

    def _is_alarm(self) -> bool:
        now = self._now()
        wanted = (
            (SECONDS_ALARM, self._encode(min(now.tm_sec, 59))),
            (MINUTES_ALARM, self._encode(now.tm_min)),
            (HOURS_ALARM, self._hour(now.tm_hour)),
        )
        return all(
            self._memory[at] & ALARM_ANY == ALARM_ANY or self._memory[at] == value
            for at, value in wanted
        )
