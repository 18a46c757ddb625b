"""Devices in a snapshot, register by register: a clone goes on with its rings as they were."""

import contextlib
import os
import shutil
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stratovirt.snapshot.encoding import decode, encode
from stratovirt.snapshot.tree import Tree
from tests.board.conftest import Board
from tests.board.virtio_driver import (
    DATA,
    EVENT_IDX,
    HEADER,
    IN,
    OUT,
    STATUS,
    VERSION_1,
    BlkDriver,
    MmioDriver,
)
from tests.kvm.test_snapshot import save
from tests.machine_process import PATIENCE, QmpClient

Start = Callable[..., Board]
SECTOR = 512
POWER_BUTTON, NEW_GENERATION = 1, 2
GENERATION_ID = 0xF_F000


Machine = Callable[..., tuple[Board, QmpClient]]


@pytest.fixture
def machine(start_board: Start, tmp_path: Path) -> Iterator[Machine]:
    """Start a board with a disk, a serial port and a monitor."""
    with contextlib.ExitStack() as monitors:

        def start(image: Path, *more: str) -> tuple[Board, QmpClient]:
            board, monitor = start_machine(start_board, tmp_path, image, *more)
            return board, monitors.enter_context(monitor)

        yield start


def start_machine(
    start_board: Start, folder: Path, image: Path, *more: str
) -> tuple[Board, QmpClient]:
    # Each machine has a disk of its own, as it is now.
    number = time.monotonic_ns()
    path, image = folder / f"qmp{number}", Path(shutil.copy(image, folder / f"disk{number}"))
    board = start_board(
        "-qmp", f"unix:{path},server,nowait", "-drive", f"id=d,file={image},direct=off",
        "-device", "virtio-blk-device,drive=d,id=blk0,num-queues=2",
        "-serial", f"file,path={folder}/serial", *more,
    )  # fmt: skip
    return board, QmpClient(path)


@pytest.mark.parametrize("features", [VERSION_1, VERSION_1 | EVENT_IDX])
def test_what_was_offered_and_not_yet_taken_is_served_by_the_clone(
    machine: Machine, tmp_path: Path, features: int
) -> None:
    image, template = tmp_path / "disk", tmp_path / "template"
    content = os.urandom(64 * SECTOR)
    image.write_bytes(content)
    board, qmp = machine(image)
    driver = BlkDriver(board.cpu)
    driver.start(features)
    for sector in range(11):
        status, data = driver.request(IN, sector, length=SECTOR)
        assert (status, data) == (0, content[sector * SECTOR :][:SECTOR])
    qmp.cmd("stop")
    # The driver goes on offering; nobody is there to serve it.
    board.cpu.write(HEADER, struct.pack("<IIQ", IN, 0, 33))
    board.cpu.write(STATUS, b"\xff")
    chain = driver.ring.chain([(HEADER, 16, False), (DATA, SECTOR, True), (STATUS, 1, True)])
    driver.ring.want_interrupt_after(driver.completed)
    driver.ring.offer(chain)
    driver.set(0x50, 0)
    assert save(qmp, template)["status"] == "completed"
    assert board.cpu.read(STATUS, 1) == b"\xff"
    assert driver.get(0x70) == 15
    for _ in range(2):
        clone, monitor = machine(image, "-incoming", f"file:{template}", "-S")
        mine = BlkDriver(clone.cpu)
        mine.rings, mine.completed = driver.rings, driver.completed
        mine.ring.memory = clone.cpu
        position = mine.ring.next_avail
        assert mine.get(0x70) == 15
        assert clone.cpu.read(STATUS, 1) == b"\xff"
        monitor.cmd("cont")
        mine.wait()
        assert clone.cpu.read(STATUS, 1) == b"\0"
        assert clone.cpu.read(DATA, SECTOR) == content[33 * SECTOR :][:SECTOR]
        assert mine.request(OUT, 40, data=content[:SECTOR])[0] == 0
        assert mine.request(IN, 40, length=SECTOR) == (0, content[:SECTOR])
        mine.ring.next_avail = position


def test_a_clone_has_another_generation_and_is_told(machine: Machine, tmp_path: Path) -> None:
    image, template = tmp_path / "disk", tmp_path / "template"
    image.write_bytes(bytes(64 * SECTOR))
    board, qmp = machine(image)
    seen = {board.cpu.read(GENERATION_ID, 16)}
    assert seen != {bytes(16)}
    qmp.cmd("system_powerdown")
    qmp.cmd("stop")
    assert save(qmp, template)["status"] == "completed"
    for _ in range(2):
        clone, _ = machine(image, "-incoming", f"file:{template}")
        seen.add(clone.cpu.read(GENERATION_ID, 16))
        # The button that was pressed before is not forgotten.
        assert pending_events(clone) == POWER_BUTTON | NEW_GENERATION
    assert len(seen) == 3


def pending_events(board: Board) -> int:
    from stratovirt.machine.x86_64_microvm_layout import GED

    return board.cpu.value(f"readl {GED:x}")


def test_the_serial_port_keeps_its_registers(machine: Machine, tmp_path: Path) -> None:
    image, template = tmp_path / "disk", tmp_path / "template"
    image.write_bytes(bytes(64 * SECTOR))
    board, qmp = machine(image)
    for port, value in (
        (0x3FB, 0x83),
        (0x3F8, 3),
        (0x3F9, 1),
        (0x3FB, 3),
        (0x3FF, 0x5A),
        (0x3F9, 5),
    ):
        board.cpu.do(f"outb {port:x} {value:x}")
    qmp.cmd("stop")
    assert save(qmp, template)["status"] == "completed"
    clone, _ = machine(image, "-incoming", f"file:{template}")
    assert clone.cpu.value("inb 3ff") == 0x5A
    assert clone.cpu.value("inb 3f9") == 5
    clone.cpu.do("outb 3fb 83")
    assert (clone.cpu.value("inb 3f8"), clone.cpu.value("inb 3f9")) == (3, 1)


@pytest.mark.parametrize(
    ("sectors", "readonly", "why"),
    [
        (65, "off", "blk0: the disk has 65 sectors and the snapshot's had 64"),
        (64, "on", "blk0: the disk is readonly=on and the snapshot's was readonly=off"),
    ],
)
def test_a_disk_of_another_shape_is_refused_by_name(
    machine: Machine, start_board: Start, tmp_path: Path, sectors: int, readonly: str, why: str
) -> None:
    image, template = tmp_path / "disk", tmp_path / "template"
    image.write_bytes(bytes(64 * SECTOR))
    board, qmp = machine(image)
    BlkDriver(board.cpu).start()
    qmp.cmd("stop")
    assert save(qmp, template)["status"] == "completed"
    image.write_bytes(bytes(sectors * SECTOR))
    path = tmp_path / "late"
    clone = start_board(
        "-qmp", f"unix:{path},server,nowait",
        "-drive", f"id=d,file={image},direct=off,readonly={readonly}",
        "-device", "virtio-blk-device,drive=d,id=blk0,num-queues=2",
        "-serial", f"file,path={tmp_path}/serial", "-incoming", f"file:{template}",
    )  # fmt: skip
    assert clone.machine.wait(PATIENCE) == 1
    assert why in clone.machine.errors.decode()
    assert not path.exists()


def test_devices_in_other_places_are_refused_by_name(start_board: Start, tmp_path: Path) -> None:
    rng = ["-object", "rng-random,id=r,filename=/dev/zero", "-device", "virtio-rng-device,rng=r"]
    balloon = ["-device", "virtio-balloon-device,id=b"]
    monitor = ["-qmp", f"unix:{tmp_path}/qmp,server,nowait"]
    board = start_board(*monitor, *rng, *balloon)
    with QmpClient(tmp_path / "qmp") as qmp:
        qmp.cmd("stop")
        assert save(qmp, tmp_path / "template")["status"] == "completed"
        qmp.cmd("quit")
    assert board.machine.wait() == 0
    clone = start_board(*balloon, *rng, "-incoming", f"file:{tmp_path}/template")
    assert clone.machine.wait() == 1
    assert (
        "b: it is at 0xf0100000, interrupt 5, and the snapshot's was at 0xf0100200, interrupt 6; "
        "give the devices in the same order"
    ) in clone.machine.errors.decode()


F_GUEST_CSUM, F_GUEST_TSO4 = 1 << 1, 1 << 7
FORGED: dict[str, tuple[dict[str, object], str]] = {
    "TSO without CSUM": (
        {"driver-features": VERSION_1 | F_GUEST_TSO4},
        "net0: the snapshot's features (0x100000080) are none that a driver could have agreed to",
    ),
    "no VERSION_1": (
        {"driver-features": F_GUEST_CSUM},
        "net0: the snapshot's features (0x2) are none that a driver could have agreed to",
    ),
    "what nobody offered": (
        {"driver-features": VERSION_1 | 1 << 40},
        "net0: the guest uses features (0x10000000000) that the device lacks here",
    ),
    "a device that runs without its driver": (
        {"status": 11, "is-active": True}, "net0: the snapshot's device runs without its driver",
    ),
    "a device that runs on features nobody agreed to": (
        {"status": 7, "is-active": True, "driver-features": F_GUEST_TSO4},
        "net0: the snapshot's device runs without its driver",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "why"), FORGED.values(), ids=FORGED)
def test_a_card_whose_driver_cannot_have_been_so_is_refused_by_name(
    start_board: Start, tmp_path: Path, change: dict[str, object], why: str
) -> None:
    card = [
        "-netdev", "tap,id=n,ifname=svtest2", "-device", "virtio-net-device,netdev=n,id=net0",
        "-qmp", f"unix:{tmp_path}/qmp,server,nowait",
    ]  # fmt: skip
    board = start_board(*card)
    driver = MmioDriver(board.cpu)
    features = VERSION_1 | F_GUEST_CSUM | F_GUEST_TSO4
    for status in (1, 3):
        driver.set(0x70, status)
    for half in (0, 1):
        driver.set(0x24, half)
        driver.set(0x20, features >> 32 * half & 0xFFFF_FFFF)
    driver.set(0x70, 11)
    assert driver.get(0x70) == 11
    with QmpClient(tmp_path / "qmp") as qmp:
        qmp.cmd("stop")
        assert save(qmp, tmp_path / "template")["status"] == "completed"
        qmp.cmd("quit")
    assert board.machine.wait() == 0
    state = tmp_path / "template/state"
    forge(state, {})
    card += ["-incoming", f"file:{tmp_path}/template"]
    sound = start_board(*card)
    assert MmioDriver(sound.cpu).get(0x70) == 11
    assert sound.machine.terminate() == 0
    forge(state, change)
    clone = start_board(*card)
    assert clone.machine.wait() == 1
    assert why in clone.machine.errors.decode()


def forge(state: Path, change: dict[str, object]) -> None:
    """Change what a snapshot says of the transport of net0."""
    with state.open("rb") as file:
        body: Any = decode(file.read).to_json()
    body["peripheral/net0"]["state"].update(change)
    state.write_bytes(encode(Tree.from_json(body)))
