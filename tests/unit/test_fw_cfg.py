"""fw_cfg in memory, as machines without I/O ports have it (QEMU's docs/specs/fw_cfg)."""

from __future__ import annotations

import _thread
import struct
from types import SimpleNamespace
from typing import Any

import pytest

from stratovirt._native.dispatch import Dispatcher
from stratovirt._native.guest_memory import GuestMemory
from stratovirt._native.ram_mapping import RamMapping
from stratovirt.machine.parts.fw_cfg import FirmwareConfig
from stratovirt.memory.address_space import AddressSpace
from stratovirt.memory.dispatch import connect

BASE, RAM = 0x902_0000, 0x10_0000
DATA, SELECTOR, DMA = BASE, BASE + 8, BASE + 16
SIGNATURE, CPU_COUNT = 0x00, 0x05
DMA_READ, DMA_SELECT = 2, 8


class Machine:
    """A guest's accesses to the device, which are little endian on the wire."""

    def __init__(self) -> None:
        self.memory = GuestMemory()
        self.memory.add(RAM, RamMapping(0x1000), 0, 0x1000)
        space = AddressSpace("memory", 1 << 40)
        self._dispatcher = Dispatcher(_thread.RLock(), lambda *_: None, 0xFF)
        connect(self._dispatcher, space, None)
        accelerator = SimpleNamespace(let_others_in=lambda: None)
        context: Any = SimpleNamespace(
            host=SimpleNamespace(memory=self.memory), accelerator=accelerator
        )
        self.part = FirmwareConfig(context, space, BASE)
        self.part.device.add(CPU_COUNT, struct.pack("<H", 7))
        space.commit()

    def select(self, key: int) -> None:
        self.write(SELECTOR, key.to_bytes(2, "big"))

    def read(self, address: int, size: int) -> bytes:
        return self._dispatcher.read(False, address, size).to_bytes(size, "little")

    def write(self, address: int, content: bytes) -> None:
        value = int.from_bytes(content, "little")
        self._dispatcher.write(False, address, len(content), value)


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.mark.parametrize("width", [1, 2, 4])
def test_an_access_of_any_width_takes_the_next_bytes_in_their_order(
    machine: Machine, width: int
) -> None:
    machine.select(SIGNATURE)
    assert b"".join(machine.read(DATA, width) for _ in range(4 // width)) == b"QEMU"
    assert machine.read(DATA, width) == bytes(width), "the entry is at its end"
    machine.select(CPU_COUNT)
    assert machine.read(DATA, 8) == struct.pack("<Q", 7)


def test_a_reset_selects_nothing(machine: Machine) -> None:
    machine.select(SIGNATURE)
    machine.part.reset()
    assert machine.read(DATA, 4) == bytes(4)


@pytest.mark.parametrize("in_halves", [False, True])
def test_a_dma_starts_with_the_whole_of_its_address(machine: Machine, in_halves: bool) -> None:
    assert machine.read(DMA, 8) == b"QEMU CFG"
    request = struct.pack(">IIQ", SIGNATURE << 16 | DMA_SELECT | DMA_READ, 4, RAM + 0x100)
    machine.memory.write(RAM, request)
    address = struct.pack(">Q", RAM)
    if in_halves:
        machine.write(DMA, address[:4])
        assert machine.memory.read(RAM, 4) == request[:4], "half of an address starts nothing"
        machine.write(DMA + 4, address[4:])
    else:
        machine.write(DMA, address)
    assert machine.memory.read(RAM, 4) == bytes(4)
    assert machine.memory.read(RAM + 0x100, 4) == b"QEMU"


def test_accesses_that_are_no_registers_do_nothing(machine: Machine) -> None:
    machine.select(SIGNATURE)
    machine.write(SELECTOR, b"\0")
    machine.write(DATA, b"\xff" * 8)
    machine.write(DMA + 2, b"\xff" * 4)
    assert machine.read(SELECTOR, 2) == bytes(2)
    assert machine.read(DATA, 4) == b"QEMU"
