"""Queues and resets: each queue has its own vector, a reset forgets what was on its way."""

import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.board.conftest import Board
from tests.board.pci_driver import PciDriver
from tests.board.virtio_driver import BASE, SLOT_BYTES, BlkDriver, MmioDriver
from tests.machine_process import QmpClient, wait_until

Start = Callable[..., Board]
BUFFER = 0x20_0000
RNG = ("-object", "rng-random,id=r,filename=/dev/zero", "-device")
DEVICES = {
    "balloon": (["-device", "virtio-balloon-{}"], 3, (0, 1)),
    # The transmit queues of all eight ports, and of control.
    "console": (["-device", "virtio-serial-{}"], 18, tuple(range(1, 18, 2))),
    "rng": ([*RNG, "virtio-rng-{},rng=r"], 1, (0,)),
}  # fmt: skip
"""Options, queues, and those of them that complete what they are given at once."""


@pytest.mark.parametrize("name", DEVICES)
def test_each_queue_completes_by_its_own_vector_and_no_other(start_board: Start, name: str) -> None:
    argv, count, completing = DEVICES[name]
    words = [word.format("pci") for word in argv[:-1]]
    words.append(argv[-1].format("pci") + ",bus=pcie.0,addr=1")
    driver = PciDriver(start_board(*words, board="q35").cpu, 1)
    rings = driver.bring_up(count)
    for number in completing:
        rings[number].offer(rings[number].chain([(BUFFER, 8, name == "rng")]))
        driver.kick(number)
        wait_until(lambda number=number: driver.spoke(number), f"vector {number}")  # type: ignore[misc]
        assert not any(driver.spoke(other) for other in range(count))


@pytest.mark.parametrize("name", DEVICES)
def test_each_queue_completes_by_the_status_of_its_slot(start_board: Start, name: str) -> None:
    argv, count, completing = DEVICES[name]
    driver = MmioDriver(start_board(*(word.format("device") for word in argv)).cpu)
    rings = driver.bring_up(count)
    for number in completing:
        rings[number].offer(rings[number].chain([(BUFFER, 8, name == "rng")]))
        driver.set(0x50, number)
        assert driver.interrupted()
        assert driver.get(0x60) == 1
        driver.set(0x64, 1)


def test_a_reset_forgets_a_message_that_a_mask_held_back(start_board: Start) -> None:
    driver = PciDriver(
        start_board(*RNG, "virtio-rng-pci,rng=r,bus=pcie.0,addr=1", board="q35").cpu, 1
    )
    (ring,) = driver.bring_up()
    driver.set_vector(0, masked=True)
    ring.offer(ring.chain([(BUFFER, 64, True)]))
    driver.kick()
    driver.done(ring, 1)
    assert driver.cpu.value(f"readl {driver.msix + 0x800:x}") == 1, "the message is pending"
    driver.set(0x14, 0, 1)
    driver.bring_up()
    assert not driver.spoke(0)


def test_a_failure_that_a_reset_overtakes_does_not_break_the_disk_again(
    start_board: Start, tmp_path: Path
) -> None:
    (tmp_path / "disk").write_bytes(bytes(4096))
    board = start_board(
        "-drive", f"id=d,file={tmp_path}/disk,direct=off", "-device", "virtio-blk-device,drive=d"
    )
    driver = BlkDriver(board.cpu)
    for _ in range(40):
        driver.start()
        board.cpu.write(driver.ring.avail + 2, struct.pack("<H", 1000))
        # In one piece: the reset comes before the loop hears of the broken ring.
        board.cpu.do_all(f"writel {driver.base + 0x50:x} 0", f"writel {driver.base + 0x70:x} 0")
        driver.start()
        board.cpu.ask("clock_step 1000")
        assert driver.get(0x70) == 15, "the new driver's disk is whole"


@pytest.fixture
def tap() -> Iterator[str]:
    name = "svreset0"
    subprocess.run(["ip", "tuntap", "add", name, "mode", "tap"], check=True)
    yield name
    subprocess.run(["ip", "link", "del", name], check=False)


def test_a_driver_at_work_keeps_the_address_that_it_has_read(
    start_board: Start, tap: str, tmp_path: Path
) -> None:
    qmp = tmp_path / "qmp"
    board = start_board("-qmp", f"unix:{qmp},server,nowait")
    # Behind the eleven slots of -device and the four of disks.
    driver = MmioDriver(board.cpu, BASE + 15 * SLOT_BYTES, 21)

    def mac() -> bytes:
        return board.cpu.read(driver.base + 0x100, 6)

    with QmpClient(qmp) as client:
        before = mac()
        driver.bring_up(2)
        client.cmd("netdev_add", id="n", type="tap", ifname=tap)
        client.cmd("device_add", id="card", driver="virtio-net-mmio", netdev="n", addr="0x0",
                   mac="52:54:00:01:02:03")  # fmt: skip
        assert mac() == before
        driver.set(0x70, 0)
        assert mac() == bytes.fromhex("525400010203")
