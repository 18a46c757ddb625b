"""q35 in a snapshot, register by register: a clone's guest finds each device as it left it."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.board.conftest import Board, Processor
from tests.board.pci_driver import (
    ECAM,
    MASTER,
    MEMORY,
    MESSAGE,
    MSIX_BAR,
    Function,
    PciDriver,
)
from tests.board.test_q35 import fill
from tests.kvm.test_snapshot import save
from tests.machine_process import PATIENCE, QmpClient, wait_until

Start = Callable[..., Board]
KIB = 1 << 10
FLASH_BYTES = 64 * KIB
FLASH = (1 << 32) - FLASH_BYTES
BUFFER = 0x20_0000
PORT, BEHIND = 3, 4
"""Slot of the root port, and the number of the bus behind it."""
BARS_BEHIND = 0xC010_0000
PM = 0x600
DEVICES = (
    "-object", "rng-random,id=r,filename=/dev/zero",
    "-device", "virtio-rng-pci,rng=r,id=rng0,bus=pcie.0,addr=1",
    "-device", "virtio-balloon-pci,bus=pcie.0,addr=2",
    "-device", "pcie-root-port,id=p1,bus=pcie.0,addr=3,port=1",
    "-device", "virtio-serial-pci,id=serial,bus=p1,addr=0",
)  # fmt: skip


class Machines:
    """Starts machines of one command line, each with files of its own."""

    def __init__(self, start_board: Start, folder: Path, monitors: ExitStack) -> None:
        self._start, self._folder, self._count = start_board, folder, 0
        self._monitors = monitors
        self.template = folder / "template"
        (folder / "flash").write_bytes(os.urandom(FLASH_BYTES))

    def start(self, *more: str, devices: tuple[str, ...] = DEVICES) -> tuple[Board, QmpClient]:
        board = self._board(*devices, *more)
        return board, self._monitors.enter_context(QmpClient(self._folder / f"qmp{self._count}"))

    def _board(self, *more: str) -> Board:
        self._count += 1
        flash = shutil.copy(self._folder / "flash", self._folder / f"flash{self._count}")
        return self._start(
            "-qmp", f"unix:{self._folder}/qmp{self._count},server,nowait",
            "-drive", f"if=pflash,unit=0,file={flash}",
            "-serial", f"file,path={self._folder}/serial", *more, board="q35",
        )  # fmt: skip

    def save(self, qmp: QmpClient) -> None:
        qmp.cmd("stop")
        info = save(qmp, self.template)
        assert info["status"] == "completed", info

    def clone(self, *more: str, devices: tuple[str, ...] = DEVICES) -> tuple[Board, QmpClient]:
        return self.start("-incoming", f"file:{self.template}", *more, devices=devices)

    def refusal(self, *devices: str) -> str:
        board = self._board("-incoming", f"file:{self.template}", *devices)
        assert board.machine.wait(PATIENCE) == 1
        return board.machine.errors.decode()


@pytest.fixture
def machines(start_board: Start, tmp_path: Path) -> Iterator[Machines]:
    with ExitStack() as monitors:
        yield Machines(start_board, tmp_path, monitors)


def switch_on_ecam(cpu: Processor) -> None:
    """What firmware does first."""
    cpu.do("outl cf8 80000060")
    cpu.do(f"outl cfc {ECAM | 1:x}")


def chips(cpu: Processor) -> dict[str, int]:
    """What the guest reads of the board's own devices, without a change to any."""
    seen = {f"port {port:x}": cpu.value(f"inl {port:x}") for port in (0xCF8, *range(PM, PM + 8, 4))}
    seen |= {f"gpe {at:x}": cpu.value(f"inl {PM + at:x}") for at in (0x20, 0x28, 0x30)}
    seen |= {f"uart {at}": cpu.value(f"inb {0x3F8 + at:x}") for at in (1, 3, 4, 7)}
    seen["cmos"] = cpu.value("inb 71")
    seen["fw_cfg"] = int.from_bytes(bytes(cpu.value("inb 511") for _ in range(3)), "big")
    seen["flash"] = cpu.value(f"readl {FLASH:x}")
    return seen


def functions(cpu: Processor) -> dict[str, int]:
    """Configuration space of all functions."""
    return {
        f"{bus}:{slot}.{function} {at:x}": Function(cpu, slot, function, bus=bus).get(at)
        for bus, slot, function in (
            (0, 0, 0),
            (0, 1, 0),
            (0, 2, 0),
            (0, 3, 0),
            (0, 31, 0),
            (BEHIND, 0, 0),
        )
        for at in range(0, 256, 4)
    }


def bring_to_work(cpu: Processor) -> PciDriver:
    """Leave a trace in each device; the driver of the rng."""
    switch_on_ecam(cpu)
    lpc, port = Function(cpu, 31), Function(cpu, PORT)
    lpc.set(0x40, PM)
    lpc.set(0x44, 0x80, 1)
    lpc.set(0x60, 0x0A0B_0A0B)
    cpu.do(f"outw {PM + 2:x} 120")
    cpu.do(f"outb {PM + 0x28:x} 5")
    cpu.do(f"outl {PM + 0x30:x} 2001")
    port.set(0x18, 0 | BEHIND << 8 | BEHIND << 16)
    port.set(0x20, BARS_BEHIND >> 16 | BARS_BEHIND & 0xFFFF_0000)
    port.set(4, MEMORY | MASTER, 2)
    port.set(port.capability(0x10) + 0x18, 0x1160, 2)
    behind = PciDriver(cpu, 0, bars=BARS_BEHIND, bus=BEHIND)
    behind.enable_msix()
    behind.set_vector(2)
    for status in (1, 3):
        behind.set(0x14, status, 1)
    cpu.do("outb 70 20")
    cpu.do("outb 71 77")
    cpu.do("outb 3fb 83")
    cpu.do("outb 3f9 1")
    cpu.do("outb 3fb 3")
    cpu.do("outb 3ff 5a")
    cpu.do("outw 510 0")
    assert cpu.value("inb 511") == ord("Q")
    cpu.do(f"writeb {FLASH:x} 90")
    driver = PciDriver(cpu, 1)
    driver.bring_up()
    cpu.do("outl cf8 80000860")
    return driver


def follow(driver: PciDriver, cpu: Processor) -> PciDriver:
    """The same driver in a clone."""
    driver.cpu = driver.function.cpu = cpu
    for ring in driver.rings:
        ring.memory = cpu
    return driver


def test_each_device_is_as_its_guest_left_it(machines: Machines) -> None:
    board, qmp = machines.start()
    driver = bring_to_work(board.cpu)
    fill(driver, 1)
    assert driver.spoke(0)
    machines.save(qmp)
    seen = functions(board.cpu), chips(board.cpu)
    clone, monitor = machines.clone("-S")
    assert functions(clone.cpu) == seen[0]
    assert chips(clone.cpu) == seen[1]
    assert clone.cpu.value(f"readl {MSIX_BAR:x}") == MESSAGE
    follow(driver, clone.cpu)
    assert driver.get(0x14, 1) == 15 and driver.get(0x1C, 2) == 1
    monitor.cmd("cont")
    fill(driver, 2)
    assert driver.spoke(0)


def test_a_masked_message_waits_in_the_clone(machines: Machines) -> None:
    board, qmp = machines.start()
    driver = bring_to_work(board.cpu)
    driver.set_vector(0, masked=True)
    fill(driver, 1)
    machines.save(qmp)
    clone, _ = machines.clone()
    follow(driver, clone.cpu)
    pending = f"readl {MSIX_BAR + 0x800:x}"
    assert clone.cpu.value(pending) == 1 and not driver.spoke(0)
    driver.set_vector(0)
    wait_until(lambda: driver.spoke(0), "the message")
    assert clone.cpu.value(pending) == 0


def test_a_pin_that_was_up_is_up_in_the_clone(machines: Machines) -> None:
    board, qmp = machines.start()
    switch_on_ecam(board.cpu)
    driver = PciDriver(board.cpu, 1)
    driver.bring_up(msix=False)
    fill(driver, 1)
    wait_until(lambda: board.cpu.ask("query_intx 17") == "OK TRUE", "the line is up")
    machines.save(qmp)
    clone, _ = machines.clone()
    follow(driver, clone.cpu)
    wait_until(lambda: clone.cpu.ask("query_intx 17") == "OK TRUE", "the line is up")
    assert driver.function.get(6, 2) & 8
    assert driver.get(0x1000, 1) == 1
    assert clone.cpu.ask("query_intx 17") == "OK FALSE" and driver.get(0x1000, 1) == 0
    fill(driver, 2)
    wait_until(lambda: clone.cpu.ask("query_intx 17") == "OK TRUE", "the line is up")


RNG = DEVICES[:4]
OTHERS: dict[str, tuple[tuple[str, ...], str]] = {
    "a place": (
        (*DEVICES[:3], "virtio-rng-pci,rng=r,id=rng0,bus=pcie.0,addr=7", *DEVICES[4:]),
        "rng0: it is on pcie.0 at 0x7.0 and the snapshot's was on pcie.0 at 0x1.0",
    ),
    "a bus": (
        (*DEVICES[:8], "-device", "virtio-serial-pci,id=serial,bus=pcie.0,addr=9"),
        "serial: it is on pcie.0 at 0x9.0 and the snapshot's was on p1 at 0x0.0",
    ),
    "vectors": (
        (*DEVICES[:3], "virtio-rng-pci,rng=r,id=rng0,bus=pcie.0,addr=1,vectors=4", *DEVICES[4:]),
        "it has 4 MSI-X vectors and the snapshot's had 2",
    ),
    "no vectors": (
        (*DEVICES[:3], "virtio-rng-pci,rng=r,id=rng0,bus=pcie.0,addr=1,vectors=0", *DEVICES[4:]),
        "it differs from the snapshot's in configuration space at 0x",
    ),
    "an id": (
        (*DEVICES[:3], "virtio-rng-pci,rng=r,id=rng1,bus=pcie.0,addr=1", *DEVICES[4:]),
        "the snapshot's machine has a device peripheral/rng0 (virtio-rng-pci) and this one has",
    ),
    "a device less": (
        DEVICES[:-2],
        "the snapshot's machine has a device peripheral/serial (virtio-serial-pci) and",
    ),
    "a port's number": (
        (*DEVICES[:7], "pcie-root-port,id=p1,bus=pcie.0,addr=3,port=2", *DEVICES[8:]),
        "p1: it differs from the snapshot's in configuration space at 0x",
    ),
}  # fmt: skip


def test_another_machine_is_refused_by_name(machines: Machines) -> None:
    board, qmp = machines.start()
    bring_to_work(board.cpu)
    machines.save(qmp)
    for name, (devices, why) in OTHERS.items():
        assert why in machines.refusal(*devices), name


def test_the_order_of_the_options_is_free(machines: Machines) -> None:
    board, qmp = machines.start()
    driver = bring_to_work(board.cpu)
    machines.save(qmp)
    mixed = (*DEVICES[:2], *DEVICES[8:], *DEVICES[6:8], *DEVICES[4:6], *DEVICES[2:4])
    clone, _ = machines.clone(devices=mixed)
    fill(follow(driver, clone.cpu), 1)


def test_what_was_plugged_or_asked_to_leave(machines: Machines) -> None:
    board, qmp = machines.start("-device", "pcie-root-port,id=p2,bus=pcie.0,addr=5,port=2")
    bring_to_work(board.cpu)
    qmp.cmd("device_del", id="serial")
    machines.save(qmp)
    clone, monitor = machines.clone("-device", "pcie-root-port,id=p2,bus=pcie.0,addr=5,port=2")
    port = Function(clone.cpu, PORT)
    slot = port.capability(0x10) + 0x18
    assert port.get(slot + 2, 2) & 1, "the button is pressed"
    port.set(slot, 0x1700, 2)
    deleted = monitor.wait_event("DEVICE_DELETED")
    assert deleted["data"]["device"] == "serial"
    assert Function(clone.cpu, 0, bus=BEHIND).get(0) == 0xFFFF_FFFF


def test_a_device_from_device_add_is_refused_by_name(machines: Machines, tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    board, qmp = machines.start("-device", "pcie-root-port,id=p2,bus=pcie.0,addr=5,port=2")
    qmp.cmd("blockdev-add", **{"node-name": "n", "driver": "raw", "file": {
        "driver": "file", "filename": str(tmp_path / "disk")}})  # fmt: skip
    qmp.cmd("device_add", driver="virtio-blk-pci", id="late", drive="n", bus="p2", addr="0x0")
    qmp.cmd("stop")
    with pytest.raises(Exception, match="late: it was added while the machine ran; remove it"):
        qmp.cmd("migrate", uri=f"file:{tmp_path}/template")
    assert board.cpu.value("inl cf8") == 0


def test_firmware_reads_the_machine_in_a_clone_and_after_its_reset(machines: Machines) -> None:
    board, qmp = machines.start()
    bring_to_work(board.cpu)
    machines.save(qmp)
    clone, monitor = machines.clone()
    for _ in range(2):
        clone.cpu.do("outw 510 19")
        count = int.from_bytes(bytes(clone.cpu.value("inb 511") for _ in range(4)), "big")
        assert count >= 6, "files in the directory"
        monitor.cmd("system_reset")
        monitor.wait_event("RESET")
        assert clone.cpu.value("inl cf8") == 0 and clone.cpu.value(f"readl {FLASH:x}") != 0x89898989
