"""Nothing of a machine is left out of a snapshot: each driver and each register has its State."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from stratovirt.cli import _make_monitor
from stratovirt.config.buses import MMIO, PCI, VIRTIO_SERIAL
from stratovirt.config.command_line import parse_command_line
from stratovirt.config.registry import built_in
from stratovirt.machine.board import Board
from stratovirt.machine.x86_64_board import X8664Board
from stratovirt.memory.address_space import IoRegion, RomRegion
from stratovirt.pci.function import PciFunction
from stratovirt.pci.msix import Msix, PendingBits
from stratovirt.runtime.process import Process
from stratovirt.snapshot.state import NoState, Stateless
from stratovirt.vfio.function import VfioFunction
from stratovirt.virtio.console import ConsoleState
from stratovirt.virtio.device import VirtioDevice
from stratovirt.virtio.vsock import Vsock
from stratovirt.vm import Vm

ARGUMENTS = {
    "virtio-blk": "drive=d", "virtio-net": "netdev=n", "virtio-rng": "rng=r", "virtio-balloon": "",
    "virtio-serial": "", "pcie-root-port": "id=port",
}  # fmt: skip
"""What each driver's device is made with, by its name without the transport."""
UNSAVABLE = {"vhost-vsock": Vsock, "vfio-pci": VfioFunction}
"""Drivers whose devices say why they cannot be saved."""
WITHOUT_STATE = {"virtio-rng"}
"""Drivers whose devices are their queues and nothing else."""


def stem(driver: str) -> str:
    name = driver.removesuffix("-device").removesuffix("-pci")
    return name if name != "vfio" else driver


def devices_of(bus: str) -> list[str]:
    """A -device for each driver of a bus."""
    argv: list[str] = []
    for number, driver in enumerate(built_in(), start=1):
        if driver.bus == bus and stem(driver.name) not in UNSAVABLE:
            place = f"bus=pcie.0,addr={number:#x}" if bus == PCI else ""
            words = [driver.name, place, ARGUMENTS[stem(driver.name)]]
            argv += ["-device", ",".join(word for word in words if word)]
    return argv


@pytest.fixture(params=["microvm", "q35"])
def board(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Board]:
    """A board with a device of each driver, which has not started."""
    name: str = request.param
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    argv = [
        "-machine", name, "-m", "256M", "-accel", "test", "-mod-test", f"unix:{tmp_path}/cpu",
        "-serial", f"file,path={tmp_path}/serial", "-disable-seccomp",
        "-drive", f"id=d,file={tmp_path}/disk,direct=off", "-netdev", "tap,id=n,ifname=svtest9",
        "-object", "rng-random,id=r,filename=/dev/zero",
        *devices_of(MMIO if name == "microvm" else PCI),
    ]  # fmt: skip
    if name == "q35":
        argv += ["-drive", f"if=pflash,unit=0,file={tmp_path}/disk2"]
        (tmp_path / "disk2").write_bytes(bytes(1 << 16))
    process = Process()
    vm = Vm(process, parse_command_line(argv), _make_monitor)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "cpu"))
        listener.listen(1)
        try:
            vm.build()
            assert vm.machine.board is not None
            yield vm.machine.board
        finally:
            vm.close()
            process.close()


def test_each_driver_has_its_state_in_the_tree(board: Board) -> None:
    entries = list(board.states())
    assert len({entry.path for entry in entries}) == len(entries)
    options = {entry.option for entry in entries}
    for driver in built_in():
        name = stem(driver.name)
        if driver.bus == VIRTIO_SERIAL:
            assert "ports" in ConsoleState.fields, "a port's state is its carrier's"
        elif name in UNSAVABLE:
            assert "obstacle" in vars(UNSAVABLE[name])
        elif driver.bus == board.bus:
            assert driver.name in options
    for entry in entries:
        if isinstance(entry.owner, VirtioDevice):
            kind = type(entry.owner)
            assert any(
                "state_type" in vars(base) for base in kind.__mro__ if base is not VirtioDevice
            )
            is_stateless = entry.owner.state_type is NoState
            assert is_stateless == (stem(entry.option) in WITHOUT_STATE), entry.path


def test_each_register_belongs_to_a_part_with_a_state(board: Board) -> None:
    assert isinstance(board, X8664Board)
    owners = {id(entry.owner) for entry in board.states()}
    functions = [entry.owner for entry in board.states() if isinstance(entry.owner, PciFunction)]
    regions = [piece.region for piece in board.memory_space.view]
    regions += [piece.region for piece in board.port_space.view]
    regions += [region for function in functions for bar in function.bars.values()
                for _, region in bar.regions]  # fmt: skip
    seen = set()
    for region in regions:
        if not isinstance(region, IoRegion | RomRegion):
            continue
        handler: object = region.handler
        if type(handler).__module__.startswith("stratovirt.accel.test."):
            continue  # a doorbell, which KVM answers without us
        if isinstance(handler, PendingBits):
            handler = handler._msix
        if isinstance(handler, Msix):
            handler = handler._function
        assert id(handler) in owners or isinstance(handler, Stateless), region.name
        seen.add(type(handler).__name__)
    assert {"Uart16550", "ResetController"} < seen
