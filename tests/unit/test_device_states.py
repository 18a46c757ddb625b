"""State of the board's devices: a new one with it behaves as the saved one, and no lie harms it."""

import _thread
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stratovirt._native.guest_memory import GuestMemory
from stratovirt.config.drive import Pflash as PflashOptions
from stratovirt.devices.fw_cfg import FwCfg
from stratovirt.devices.ged import POWER_BUTTON, GenericEventDevice
from stratovirt.devices.pflash import Pflash
from stratovirt.devices.x86_64_ich9 import PM1_ENABLE, PM1_STATUS, PM_TIMER, PowerManagement
from stratovirt.devices.x86_64_rtc import Rtc
from stratovirt.errors import StratovirtError
from stratovirt.memory.address_space import AddressSpace
from stratovirt.pci.host_bridge import PciHost
from stratovirt.pci.x86_64_config_ports import ConfigPorts
from stratovirt.runtime.clock import VirtualClock
from stratovirt.runtime.loop import Loop
from stratovirt.snapshot.encoding import decode, encode
from stratovirt.snapshot.errors import SnapshotError
from stratovirt.snapshot.state import Entry
from stratovirt.snapshot.tree import Tree

if TYPE_CHECKING:
    from stratovirt.snapshot.state import Stateful

SECOND_NS = 1_000_000_000
INDEX, DATA = 0, 1
HOURS, REG_B, REG_C, MEMORY = 4, 11, 12, 0x20
SET, ALARM, BINARY_24 = 0x80, 0x20, 6
BASE = 0xFFF0_0000


def move(saved: "Stateful", fresh: "Stateful") -> None:
    """Give the state of one device to another, by way of bytes."""
    content = encode(Tree.of([Entry("device", saved)]))
    decode(io.BytesIO(content).read).apply([Entry("device", fresh)])


class Lines:
    """An interrupt line that remembers its level."""

    level = False

    def __call__(self, level: bool) -> None:
        self.level = level


class Clock:
    """An rtc with the line, clock and loop that it has."""

    def __init__(self) -> None:
        self.line, self.time = Lines(), VirtualClock()
        self.rtc = Rtc(self.time, Loop(_thread.RLock()), self.line, [(0, 256 << 20)])

    def get(self, register: int) -> int:
        self.rtc.write(INDEX, 1, register)
        return self.rtc.read(DATA, 1)

    def set(self, register: int, value: int) -> None:
        self.rtc.write(INDEX, 1, register)
        self.rtc.write(DATA, 1, value)


def test_the_guests_own_time_goes_on() -> None:
    old, new = Clock(), Clock()
    old.set(REG_B, SET | BINARY_24)
    for register, value in ((0, 10), (2, 20), (4, 3), (7, 4), (8, 5), (9, 66), (0x32, 20)):
        old.set(register, value)
    old.set(REG_B, BINARY_24)
    old.set(MEMORY, 0x5A)
    old.rtc.write(INDEX, 1, 9)
    new.time.move_to(7 * SECOND_NS)
    move(old.rtc, new.rtc)
    assert new.rtc.read(DATA, 1) == 66, "the selected register is selected"
    assert [new.get(register) for register in (0x32, 8, 7, 4, 2)] == [20, 5, 4, 3, 20]
    assert new.get(MEMORY) == 0x5A


def test_a_date_that_is_being_set_is_set_to_its_end() -> None:
    old, new = Clock(), Clock()
    old.set(REG_B, SET | BINARY_24)
    old.set(HOURS, 17)
    move(old.rtc, new.rtc)
    new.time.move_to(7200 * SECOND_NS)
    assert new.get(HOURS) == 17
    new.set(REG_B, BINARY_24)
    assert new.get(HOURS) == 17
    new.time.move_to(2 * 7200 * SECOND_NS)
    assert new.get(HOURS) == 19


def test_an_alarm_rings_in_the_clone() -> None:
    old, new = Clock(), Clock()
    for register in (1, 3, 5):
        old.set(register, 0xC0)
    old.set(REG_B, ALARM | BINARY_24)
    move(old.rtc, new.rtc)
    assert not new.line.level
    new.time.move_to(2 * SECOND_NS)
    assert new.line.level and new.get(REG_C) & 0xA0 == 0xA0
    assert not new.line.level
    new.time.move_to(4 * SECOND_NS)
    # What has rung and was not heard yet rings on.
    third = Clock()
    move(new.rtc, third.rtc)
    assert third.line.level and third.get(REG_C) & 0xA0 == 0xA0


@pytest.mark.parametrize("mode", [BINARY_24, 2, 0, SET | BINARY_24, SET | 2])
def test_whatever_a_guest_writes_to_the_clock_can_be_saved(mode: int) -> None:
    clock = Clock()
    clock.set(REG_B, mode)
    for register in (0, 2, 4, 7, 8, 9, 0x32) * 3:
        for value in (0, 0x0C, 0x31, 0x99, 0xFF):
            clock.set(register, value)
            move(clock.rtc, Clock().rtc)
    clock.set(REG_B, mode & ~SET)
    move(clock.rtc, Clock().rtc)


def test_a_clock_has_no_day_after_the_last_of_all() -> None:
    clock = Clock()
    clock.set(REG_B, BINARY_24)
    for register, value in ((7, 1), (8, 12), (0x32, 99), (9, 99), (7, 165)):
        clock.set(register, value)
    assert (clock.get(7), clock.get(8)) == (1, 12)
    clock.set(7, 31)
    clock.time.move_to(clock.time.now_ns() + 40 * 86400 * SECOND_NS)
    move(clock.rtc, Clock().rtc)


def test_the_clone_of_a_clone_has_a_timer_within_its_bounds() -> None:
    first, second = make_power()[0], make_power()[0]
    state = first.save().to_json() | {"timer-ns": 4_680_000_000, "realtime": 0}
    second.restore(first.state_type.from_json(state, "power"))
    move(second, first)


@pytest.mark.parametrize("register", [0, 2, 4, 7, 8, 9, 0x32])
def test_a_register_of_the_clock_is_a_byte_whatever_is_written(register: int) -> None:
    clock = Clock()
    clock.set(REG_B, SET)
    clock.set(register, 0xFF)
    assert clock.get(register) <= 0xFF


def make_power() -> tuple[PowerManagement, Lines, VirtualClock]:
    line, clock = Lines(), VirtualClock()
    return PowerManagement(clock, line, lambda: None), line, clock


def test_the_power_buttons_event_waits_in_the_clone() -> None:
    old, _, _ = make_power()
    new, line, _ = make_power()
    old.press_power_button()
    old.write(0x28, 1, 0x33)
    old.write(0x30, 4, 0x2001)
    move(old, new)
    assert not line.level
    new.write(PM1_ENABLE, 2, 0x100)
    assert line.level and new.read(PM1_STATUS, 2) == 0x100
    assert (new.read(0x28, 1), new.read(0x30, 4)) == (0x33, 0x2001)
    third, other, _ = make_power()
    move(new, third)
    assert other.level
    third.write(PM1_STATUS, 2, 0x100)
    assert not other.level


def test_the_timer_goes_on_as_time_does() -> None:
    old, _, clock = make_power()
    new, _, later = make_power()
    clock.move_to(2 * SECOND_NS)
    later.move_to(60 * SECOND_NS)
    before = time.monotonic_ns()
    move(old, new)
    passed = time.monotonic_ns() - before
    # 3,579,545 a second; the time that the move itself took has passed, too.
    counted = new.read(PM_TIMER, 4) - 2 * 3_579_545
    assert 0 <= counted <= (passed * 3_579_545 // SECOND_NS) + 2


def make_flash(folder: Path, name: str, size: int = 64 << 10) -> Pflash:
    file = folder / name
    file.write_bytes(bytes(size))
    flash = Pflash(PflashOptions(file=str(file), unit=0, readonly=False))
    flash.place(AddressSpace("memory", 1 << 40), BASE)
    return flash


def test_a_flash_goes_on_with_the_write_that_it_was_given(tmp_path: Path) -> None:
    old, new = make_flash(tmp_path, "old"), make_flash(tmp_path, "new")
    for value in (0xE8, 2):
        old.write(0x100, 1, value)
    old.write(0x100, 1, 0x11)
    move(old, new)
    assert new.read(0, 1) == 0x80
    new.write(0x101, 1, 0x22)
    new.write(0x102, 1, 0x33)
    assert new.read(0, 1) == 0x80, "the buffer is full and not confirmed"
    third = make_flash(tmp_path, "third")
    move(new, third)
    third.write(0x100, 1, 0xD0)
    third.write(0, 1, 0xFF)
    assert third.read(0x100, 4) == 0x00_33_22_11
    assert (tmp_path / "third").read_bytes()[0x100:0x103] == b"\x11\x22\x33"
    for flash in (old, new, third):
        flash.close()


@pytest.mark.parametrize(("command", "shown"), [(0x90, 0x89), (0x98, 0), (0x70, 0x80), (0xFF, 0)])
def test_a_flash_shows_what_it_showed(tmp_path: Path, command: int, shown: int) -> None:
    old, new = make_flash(tmp_path, "old"), make_flash(tmp_path, "new")
    old.write(0, 1, command)
    move(old, new)
    assert new.read(0, 1) == shown == old.read(0, 1)
    view = new._space.view
    assert [piece.region.name for piece in view] == [piece.region.name for piece in old._space.view]
    for flash in (old, new):
        flash.close()


def test_a_flash_of_another_size_is_refused(tmp_path: Path) -> None:
    old, new = make_flash(tmp_path, "old"), make_flash(tmp_path, "new", 32 << 10)
    with pytest.raises(SnapshotError, match=r"new: the file has 32768 bytes and .* had 65536"):
        move(old, new)
    for flash in (old, new):
        flash.close()


def test_fw_cfg_reads_on_where_it_was() -> None:
    def make() -> FwCfg:
        device = FwCfg(GuestMemory(), lambda: None)
        device.add(0x42, bytes(range(100)))
        return device

    old, new = make(), make()
    old.write(0, 2, 0x42)
    assert [old.read(1, 1) for _ in range(3)] == [0, 1, 2]
    old.write(4, 4, 0x0100_0000)
    move(old, new)
    assert [new.read(1, 1) for _ in range(3)] == [3, 4, 5]
    assert new.save().dma_high == 1


def test_the_configuration_ports_keep_their_register() -> None:
    def make() -> ConfigPorts:
        spaces = AddressSpace("memory", 1 << 40), AddressSpace("port", 1 << 16)
        return ConfigPorts(PciHost(*spaces, 16, lambda _gsi, _level: None), lambda: None)

    old, new = make(), make()
    old.write(0, 4, 0x8000_1234)
    old.write(1, 1, 2)
    move(old, new)
    assert (new.read(0, 4), new.read(1, 1)) == (0x8000_1234, 2)


def test_an_event_that_nobody_took_is_raised_again() -> None:
    levels: list[bool] = []
    old, new = GenericEventDevice(lambda _level: None), GenericEventDevice(levels.append)
    old.raise_event(POWER_BUTTON)
    move(old, new)
    assert levels == [True, False] and new.read(0, 4) == POWER_BUTTON


def forged(device: "Stateful", **changes: Any) -> Tree:
    tree = Tree.of([Entry("device", device)])
    body: Any = tree.to_json()
    body["device"]["state"].update({key.replace("_", "-"): v for key, v in changes.items()})
    return Tree.from_json(body)


@pytest.mark.parametrize(
    ("make", "changes"),
    [
        (lambda: Clock().rtc, {"frozen": [1, 2, 3]}),
        (lambda: Clock().rtc, {"frozen": [1] * 8 + [-1]}),
        (lambda: Clock().rtc, {"memory": "00"}),
        (lambda: Clock().rtc, {"ahead_ms": 260_402_300_799_000}),
        (lambda: Clock().rtc, {"ahead_ms": -253_402_300_799_000}),
        (lambda: make_power()[0], {"timer_ns": -1}),
        (lambda: make_power()[0], {"gpe": "00" * 17}),
    ],
)
def test_a_lie_is_one_line(make: Callable[[], Any], changes: dict[str, object]) -> None:
    with pytest.raises(StratovirtError) as caught:
        forged(make(), **changes).apply([Entry("device", make())])
    assert "\n" not in str(caught.value)


def test_bits_that_no_guest_can_set_are_not_taken() -> None:
    new, line, _ = make_power()
    lie = forged(make_power()[0], status=0xFFFF, enable=0xFFFF, control=0xFFFF, gpe="ff" * 16)
    lie.apply([Entry("device", new)])
    assert new.read(PM1_STATUS, 2) == 0x8521 and new.read(PM1_ENABLE, 2) == 0x521
    assert new.read(0x20, 4) == 0 and new.read(0x28, 4) == 0xFFFF_FFFF
    assert line.level
