"""The device tree of a board's parts: dtc, the reference compiler, has nothing against it."""

from __future__ import annotations

import _thread
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stratovirt._native.guest_memory import GuestMemory
from stratovirt.boot.device_tree import DeviceTree, pair
from stratovirt.config.buses import MMIO
from stratovirt.config.command_line import parse_command_line
from stratovirt.cpu.slots import CpuSlots
from stratovirt.devices.device_host import DeviceHost
from stratovirt.host.access import HostAccess
from stratovirt.machine.board import Board
from stratovirt.machine.inventory import Inventory
from stratovirt.machine.part import BoardContext
from stratovirt.machine.parts.flash import Flash
from stratovirt.machine.parts.fw_cfg import FirmwareConfig
from stratovirt.machine.parts.pci_express import PciExpress, PciMap
from stratovirt.machine.parts.serial_port import SerialPort
from stratovirt.machine.parts.topology import Topology
from stratovirt.machine.parts.virtio_slots import VirtioSlots
from stratovirt.machine.x86_64_clock import Clock
from stratovirt.runtime.clock import VirtualClock
from stratovirt.runtime.eventfds import new_eventfd
from stratovirt.runtime.loop import Loop
from stratovirt.runtime.process import Process
from stratovirt.virtio.device import VirtioDevice

DTC = shutil.which("dtc") or "/usr/bin/dtc"
GIB = 1 << 30
RAM, FLASH = 1 << 30, 1 << 16
SERIAL, CLOCK, FW_CFG, VIRTIO = 0x900_0000, 0x901_0000, 0x902_0000, 0xA00_0000
FLASH_END, GIC, ECAM, PORT_WINDOW = 0x800_0000, 0x800_0000, 0x40_1000_0000, 0x3EFF_0000
GIC_CPUS, PCI_LINE = GIC + (1 << 20), 3
BOOTARGS = b"console=ttyS0 -- \xff"
PCI_MAP = PciMap((ECAM, 256 << 20), [(0x1000_0000, 0x3EFE_FFFF)], (1 << 39, (1 << 40) - 1))
LEVEL_HIGH, EDGE_RISING = 4, 1


MICROVM = (
    "-machine", "microvm", "-m", "2G", "-smp", "2",
    "-object", "memory-backend-ram,id=m0,size=1G", "-object", "memory-backend-ram,id=m1,size=1G",
    "-numa", "node,nodeid=0,cpus=0,memdev=m0", "-numa", "node,nodeid=1,cpus=1,memdev=m1",
    "-numa", "dist,src=0,dst=1,val=30",
    "-device", "virtio-balloon-device",
)  # fmt: skip


class SilentAccelerator:
    """An accelerator whose guest hears and says nothing."""

    clock = VirtualClock()

    def connect(self, *_spaces: object) -> None:
        """There is no vCPU that could look."""

    def set_irq_level(self, gsi: int, level: bool) -> None:
        """Nobody waits."""

    def irqfd(self, _gsi: int) -> int:
        """An eventfd that nobody reads."""
        return new_eventfd()

    def add_doorbell(self, *_arguments: object) -> None:
        """Nobody rings."""

    def let_others_in(self) -> None:
        """Nobody waits."""


def make_context(closing: ExitStack, *argv: str) -> BoardContext:
    """What a board of this command line is built with."""
    config = parse_command_line([*argv, "-accel", "test", "-mod-test", "none"])
    accelerator: Any = SilentAccelerator()
    loop = Loop(_thread.RLock())
    closing.callback(loop.close)
    host = DeviceHost(
        process=Process(), config=config, loop=loop, clock=accelerator.clock, memory=GuestMemory(),
        iothreads={}, open_chardev=no_chardev, send_event=lambda *_event: None,
        access=HostAccess(),
    )  # fmt: skip
    return BoardContext(
        config=config, inventory=Inventory(config), cpus=CpuSlots(config, [0, 0x100]),
        accelerator=accelerator, host=host, closing=closing, serial=None,
        guest_reset=lambda: None, guest_power_off=lambda: None,
    )  # fmt: skip


def no_chardev(_name: str = "") -> Any:
    """A chardev without a peer."""
    return SimpleNamespace()


class Portless(Board):
    """A board of an architecture without I/O ports, with every part that can be in memory."""

    bus = MMIO

    def __init__(self, context: BoardContext, firmware: BoardContext) -> None:
        super().__init__(context, [(GIB, 2 * RAM)])
        memory = self.memory_space
        processor = {"compatible": "arm,armv8", "enable-method": "psci"}
        self.add(Topology(self.config, self.cpus, self.ram_pieces, processor=processor))
        self.virtio = self.add(
            VirtioSlots(context, memory, VIRTIO, range(16, 20), first_hot_line=20)
        )
        self.add(SerialPort(no_chardev(), memory, SERIAL, context.line(1)))
        self.add(Clock(context, memory, CLOCK, context.line(2), self.ram))
        self.add(Flash(firmware, memory, FLASH_END, 64 << 20))
        self.add(FirmwareConfig(context, memory, FW_CFG))
        self.pci = self.add(
            PciExpress(context, memory, PCI_LINE, lambda: PCI_MAP, port_window=PORT_WINDOW)
        )
        self.pci.map_ecam()
        self.virtio.fill(self)
        memory.commit()

    @property
    def devices(self) -> list[VirtioDevice]:
        """All virtio devices."""
        return self.virtio.devices

    def load(self) -> None:
        """There is nothing to boot."""

    def press_power_button(self) -> None:
        """It has none."""


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Portless]:
    (tmp_path / "code").write_bytes(bytes(FLASH))
    drive = f"if=pflash,unit=0,file={tmp_path}/code,readonly=on"
    with ExitStack() as closing:
        # Of this host's boards only q35 takes flash.
        firmware = make_context(closing, "-machine", "q35", "-smp", "2", "-drive", drive)
        yield Portless(make_context(closing, *MICROVM), firmware)


@pytest.fixture
def tree(board: Portless) -> DeviceTree:
    tree = DeviceTree(
        "stratovirt,test", "linux,dummy-virt", f"interrupt-controller@{GIC:x}",
        lambda line, level: (0, line, LEVEL_HIGH if level else EDGE_RISING),
    )  # fmt: skip
    tree.controller.set("compatible", "arm,gic-v3")
    tree.controller.set("reg", *tree.range(GIC, 1 << 16), *tree.range(GIC_CPUS, 1 << 17))
    board.device_tree(tree)
    tree.choose(BOOTARGS, (0x4800_0000, 12345), lambda size: b"\x5a" * size)
    return tree


def source(tree: DeviceTree) -> str:
    """The tree as dtc reads it, without a warning."""
    done = subprocess.run(
        [DTC, "-I", "dtb", "-O", "dts", "-"], input=tree.blob(), capture_output=True, timeout=60
    )
    assert done.returncode == 0 and done.stderr == b"", done.stderr.decode()
    return done.stdout.decode()


def node(text: str, name: str) -> str:
    """The lines of a node."""
    found = re.search(rf"\n(\t+){re.escape(name)} {{\n(.*?)\n\1}};", text, re.DOTALL)
    assert found is not None, f"no {name} in\n{text}"
    return found[2]


def cells(text: str, name: str) -> list[int]:
    """The cells of a property."""
    found = re.search(rf"\t{re.escape(name)} = <([^>]*)>;", text)
    assert found is not None, f"no {name} in\n{text}"
    return [int(cell, 16) for cell in found[1].split()]


def test_dtc_has_nothing_against_the_tree_and_makes_the_same_of_its_source(
    tree: DeviceTree,
) -> None:
    text = source(tree)
    again = subprocess.run(
        [DTC, "-I", "dts", "-O", "dts", "-"], input=text.encode(), capture_output=True, check=True
    )
    assert again.stderr == b"" and again.stdout.decode() == text
    blob = subprocess.run(
        [DTC, "-I", "dts", "-O", "dtb", "-"], input=text.encode(), capture_output=True, check=True
    )
    assert len(blob.stdout) == len(tree.blob())


@pytest.mark.parametrize(
    ("name", "compatible", "place", "size", "interrupts"),
    [
        (f"serial@{SERIAL:x}", "ns16550a", SERIAL, 8, [0, 1, LEVEL_HIGH]),
        (f"rtc@{CLOCK:x}", "motorola,mc146818", CLOCK, 2, [0, 2, LEVEL_HIGH]),
        (f"virtio_mmio@{VIRTIO:x}", "virtio,mmio", VIRTIO, 0x200, [0, 16, EDGE_RISING]),
        (f"flash@{FLASH_END - FLASH:x}", "cfi-flash", FLASH_END - FLASH, FLASH, None),
        (f"fw-cfg@{FW_CFG:x}", "qemu,fw-cfg-mmio", FW_CFG, 24, None),
        (f"pcie@{ECAM:x}", "pci-host-ecam-generic", ECAM, 256 << 20, None),
    ],
)
def test_a_part_says_what_it_is_and_where(
    tree: DeviceTree,
    name: str,
    compatible: str,
    place: int,
    size: int,
    interrupts: list[int] | None,
) -> None:
    text = node(source(tree), name)
    assert f'compatible = "{compatible}";' in text
    assert cells(text, "reg") == [*pair(place), *pair(size)]
    if interrupts is not None:
        assert cells(text, "interrupts") == interrupts


def test_the_bridge_tells_its_windows_and_where_each_pin_goes(tree: DeviceTree) -> None:
    text = node(source(tree), f"pcie@{ECAM:x}")
    ranges = cells(text, "ranges")
    assert [ranges[at : at + 7] for at in range(0, len(ranges), 7)] == [
        [0x0100_0000, 0, 0, 0, PORT_WINDOW, 0, 0x1_0000],
        [0x0200_0000, 0, 0x1000_0000, 0, 0x1000_0000, 0, 0x2EFF_0000],
        [0x0300_0000, 0x80, 0, 0x80, 0, 0x80, 0],
    ]
    assert cells(text, "bus-range") == [0, 255]
    assert cells(text, "interrupt-map-mask") == [0x1800, 0, 0, 7]
    rows = cells(text, "interrupt-map")
    seen = {(rows[at] >> 11, rows[at + 3]): rows[at + 4 : at + 8] for at in range(0, len(rows), 8)}
    controller = cells(source(tree), "interrupt-parent")[0]
    assert len(seen) == 16
    for (slot, pin), target in seen.items():
        assert target == [controller, 0, PCI_LINE + (slot + pin - 1) % 4, LEVEL_HIGH]


def test_nodes_tell_their_processors_memory_and_distances(tree: DeviceTree) -> None:
    text = source(tree)
    for name, reg, number in (("cpu@0", 0, 0), ("cpu@100", 0x100, 1)):
        cpu = node(text, name)
        assert cells(cpu, "reg") == [reg] and cells(cpu, "numa-node-id") == [number]
        assert 'enable-method = "psci";' in cpu
    for number, base in enumerate((GIB, 2 * GIB)):
        memory = node(text, f"memory@{base:x}")
        assert cells(memory, "reg") == [*pair(base), *pair(RAM)]
        assert cells(memory, "numa-node-id") == [number]
    distances = cells(node(text, "distance-map"), "distance-matrix")
    assert distances == [0, 0, 10, 0, 1, 30, 1, 0, 30, 1, 1, 10]


def test_the_kernel_is_told_its_command_line_initrd_and_seeds(tree: DeviceTree) -> None:
    chosen = node(source(tree), "chosen")
    # Not UTF-8, which dtc shows as bytes.
    assert f"bootargs = [{(BOOTARGS + bytes(1)).hex(' ')}];" in chosen
    assert cells(chosen, "linux,initrd-start") == [0, 0x4800_0000]
    assert cells(chosen, "linux,initrd-end") == [0, 0x4800_0000 + 12345]
    assert cells(chosen, "kaslr-seed") == [0x5A5A5A5A] * 2
    assert cells(chosen, "rng-seed") == [0x5A5A5A5A] * 8
    assert f'stdout-path = "/serial@{SERIAL:x}";' in chosen


def test_a_board_without_ports_has_its_registers_in_memory(board: Portless) -> None:
    assert not hasattr(board, "port_space")
    places = {flat.start for flat in board.memory_space.view}
    assert {SERIAL, CLOCK, FW_CFG, VIRTIO, ECAM, FLASH_END - FLASH} <= places


def test_a_reset_is_that_of_each_part_in_order_and_then_the_load(
    board: Portless, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[object] = []
    for part in board.parts:
        monkeypatch.setattr(part, "reset", lambda part=part: done.append(part))
    monkeypatch.setattr(board, "load", lambda: done.append("load"))
    board.reset()
    assert done == [*board.parts, "load"]
