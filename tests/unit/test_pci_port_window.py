"""I/O BARs on a machine without I/O ports: the host bridge shows its port space in memory."""

from __future__ import annotations

import _thread
from collections.abc import Callable

import pytest

from stratovirt._native.dispatch import Dispatcher
from stratovirt.memory.address_space import AddressSpace, IoRegion, PortSpace
from stratovirt.memory.dispatch import connect
from stratovirt.pci import config_space as regs
from stratovirt.pci.function import BAR_IO, PciFunction
from stratovirt.pci.host_bridge import PciHost

WINDOW, BAR_BYTES = 0x3EFF_0000, 32
DEVFN = 1 << 3


class Register:
    """One register; remembers where it was accessed."""

    def __init__(self) -> None:
        self.accesses: list[tuple[str, int, int]] = []
        self.value = 0

    def read(self, offset: int, size: int) -> int:
        self.accesses.append(("read", offset, size))
        return self.value

    def write(self, offset: int, size: int, value: int) -> None:
        self.accesses.append(("write", offset, size))
        self.value = value


@pytest.fixture
def machine() -> tuple[Dispatcher, PciHost, Register, Callable[[int], None]]:
    memory = AddressSpace("memory", 1 << 40)
    dispatcher = Dispatcher(_thread.RLock(), lambda *_: None, 0xFF)
    connect(dispatcher, memory, None)
    host = PciHost(memory, PortSpace(), 3, lambda _line, _level: None)
    host.show_ports(WINDOW)
    memory.commit()
    register = Register()
    function = PciFunction("card", vendor=1, device=2, class_code=0xFF0000)
    function.add_bar(0, BAR_BYTES, [(0, IoRegion("card", BAR_BYTES, register))], flags=BAR_IO)
    function.config.keep()
    host.root.attach(function, (1, 0))

    def place(port: int) -> None:
        host.write_config(0, DEVFN, regs.BAR0, 4, port)
        host.write_config(0, DEVFN, regs.COMMAND, 2, regs.COMMAND_IO)

    return dispatcher, host, register, place


def test_an_io_bar_is_read_and_written_through_memory(
    machine: tuple[Dispatcher, PciHost, Register, Callable[[int], None]],
) -> None:
    dispatcher, host, register, place = machine
    place(0x1000)
    dispatcher.write(False, WINDOW + 0x1004, 4, 0xCAFE)
    assert dispatcher.read(False, WINDOW + 0x1004, 4) == 0xCAFE
    assert register.accesses == [("write", 4, 4), ("read", 4, 4)]
    place(0x2000)
    dispatcher.read(False, WINDOW + 0x1004, 4)
    assert len(register.accesses) == 2, "it is no longer where it was"
    dispatcher.read(False, WINDOW + 0x2000, 1)
    assert register.accesses[2:] == [("read", 0, 1)]
    host.write_config(0, DEVFN, regs.COMMAND, 2, 0)
    dispatcher.read(False, WINDOW + 0x2000, 1)
    assert len(register.accesses) == 3, "the function does not answer"


def test_a_reset_takes_the_bar_out_of_the_window(
    machine: tuple[Dispatcher, PciHost, Register, Callable[[int], None]],
) -> None:
    dispatcher, host, register, place = machine
    place(0x1000)
    assert [flat.start for flat in host.memory.view] == [WINDOW + 0x1000]
    host.reset()
    assert not host.memory.view
    dispatcher.write(False, WINDOW + 0x1000, 4, 1)
    assert not register.accesses
