"""What managers send with devices: with its meaning where there is one, refused where it lies."""

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from qemu.qmp.qmp_client import ExecuteError

from tests.board.conftest import Board
from tests.board.pci_driver import Function, PciDriver
from tests.board.test_resets import tap
from tests.board.virtio_driver import BASE, IN, BlkDriver, MmioDriver
from tests.machine_process import QmpClient, wait_until

__all__ = ["tap"]

Start = Callable[..., Board]
RNG = ("-object", "rng-random,id=r,filename=/dev/zero", "-device")
QUEUE_SIZE_MAX, SEG_MAX_AT, TOPOLOGY_AT = 0x34, 0x10C, 0x118
MSIX = 0x11
NO_VECTOR = 0xFFFF
BUFFER = 0x20_0000


def disk(folder: Path, more: str, driver: str = "virtio-blk-device") -> list[str]:
    (folder / "disk").write_bytes(os.urandom(1 << 16))
    return [
        "-drive",
        f"id=d,file={folder / 'disk'},direct=off",
        "-device",
        f"{driver},drive=d,{more}",
    ]


def test_a_disk_has_rings_and_blocks_as_large_as_asked_for(
    start_board: Start, tmp_path: Path
) -> None:
    sent = "romfile=,disable-modern=off,share-rw=on,write-cache=on,logical_block_size=512"
    more = f"id=vda,{sent},queue-size=1024,physical_block_size=4096,num-queues=2"
    qmp = tmp_path / "qmp"
    board = start_board(*disk(tmp_path, more), "-qmp", f"unix:{qmp},server,nowait")
    driver = BlkDriver(board.cpu)
    content = (tmp_path / "disk").read_bytes()
    for queue in (0, 1):
        driver.set(0x30, queue)
        assert driver.get(QUEUE_SIZE_MAX) == 1024
    assert board.cpu.value(f"readl {BASE + SEG_MAX_AT:x}") == 1022
    # Blocks of 8 sectors, and as many written at once.
    assert struct.unpack("<BBH", board.cpu.read(BASE + TOPOLOGY_AT, 4)) == (3, 0, 8)
    driver.start(size=1024)
    for sector in (0, 127):
        found = content[sector * 512 : sector * 512 + 512]
        assert driver.request(IN, sector, length=512) == (0, found)
    with QmpClient(qmp) as client:
        client.cmd("device_del", id="vda")
        node = {"node-name": "e", "file": {"filename": str(tmp_path / "disk")}}
        client.cmd("blockdev-add", **node, cache={"direct": False})
        add = {"id": "e", "driver": "virtio-blk-mmio", "addr": 0, "physical_block_size": 1024}
        with pytest.raises(ExecuteError, match="queue-size must be 1024 in block slot 0, not 256"):
            client.cmd("device_add", **add, **{"queue-size": 256})
        client.cmd("device_add", **add, **{"queue-size": 1024})
        assert struct.unpack("<BBH", board.cpu.read(BASE + TOPOLOGY_AT, 4)) == (1, 0, 2)


def test_a_card_has_rings_as_large_as_asked_for(start_board: Start, tap: str) -> None:
    board = start_board(
        "-netdev", f"tap,id=n,ifname={tap},script=no,downscript=",
        "-device", "virtio-net-device,netdev=n,queue-size=1024",
    )  # fmt: skip
    driver = MmioDriver(board.cpu)
    sizes = []
    for queue in range(3):
        driver.set(0x30, queue)
        sizes.append(driver.get(QUEUE_SIZE_MAX))
    assert sizes == [1024, 1024, 256]


def bar_size(function: Function, index: int) -> int:
    function.set(0x10 + 4 * index, 0xFFFF_FFFF)
    return -(function.get(0x10 + 4 * index) & ~0xF) & 0xFFFF_FFFF


def test_vectors_are_the_size_of_the_table_of_messages(start_board: Start) -> None:
    board = start_board(
        *RNG, "virtio-rng-pci,rng=r,bus=pcie.0,addr=1,vectors=1",
        "-device", "virtio-balloon-pci,bus=pcie.0,addr=2,vectors=200",
        "-device", "virtio-serial-pci,bus=pcie.0,addr=3", board="q35",
    )  # fmt: skip
    sizes = []
    for slot in (1, 2, 3):
        function = Function(board.cpu, slot)
        sizes.append((function.get(function.capability(MSIX) + 2, 2) & 0x7FF) + 1)
    assert sizes == [1, 200, 19]
    assert bar_size(Function(board.cpu, 2), 1) >= 200 * 16 + 25
    driver = PciDriver(board.cpu, 1)
    # Its queue has no vector of its own, and shares the one of configuration changes.
    driver.set(0x16, 0, 2)
    driver.set(0x1A, 1, 2)
    assert driver.get(0x1A, 2) == NO_VECTOR
    driver.bring_up()
    ring = driver.rings[0]
    ring.want_interrupt_after(0)
    ring.offer(ring.chain([(BUFFER, 64, True)]))
    driver.kick()
    wait_until(lambda: driver.spoke(0), "the message")


def test_without_vectors_a_device_speaks_through_its_pin(
    start_board: Start, tmp_path: Path
) -> None:
    qmp = tmp_path / "qmp"
    (tmp_path / "disk").write_bytes(bytes(1 << 16))
    board = start_board(
        *RNG, "virtio-rng-pci,rng=r,bus=pcie.0,addr=1,vectors=0",
        "-device", "pcie-root-port,id=port,bus=pcie.0,addr=2,port=1",
        "-qmp", f"unix:{qmp},server,nowait", board="q35",
    )  # fmt: skip
    function = Function(board.cpu, 1)
    with pytest.raises(AssertionError, match="no capability"):
        function.capability(MSIX)
    assert bar_size(function, 1) == 0
    driver = PciDriver(board.cpu, 1)
    driver.bring_up(msix=False)
    ring = driver.rings[0]
    ring.want_interrupt_after(0)
    ring.offer(ring.chain([(BUFFER, 64, True)]))
    driver.kick()
    wait_until(lambda: board.cpu.ask("query_intx 17") == "OK TRUE", "the line is up")
    with QmpClient(qmp) as client:
        node = {"node-name": "d", "file": {"filename": str(tmp_path / "disk")}}
        client.cmd("blockdev-add", **node, cache={"direct": False})
        client.cmd(
            "device_add", id="d", driver="virtio-blk-pci", bus="port", addr="0x0", romfile="",
            multifunction="on", vectors=3,
            **{"queue-size": 512, "disable-modern": "off", "share-rw": True, "write-cache": "on"},
        )  # fmt: skip
    port = Function(board.cpu, 2)
    port.set(0x19, 0x0101, 2)
    port.set(0x20, 0xC100_C100)
    port.set(4, 6, 2)
    plugged = Function(board.cpu, 0, bus=1)
    assert plugged.get(plugged.capability(MSIX) + 2, 2) & 0x7FF == 2
    assert plugged.get(0x0E, 1) & 0x80
    driver = PciDriver(board.cpu, 0, bars=0xC100_0000, bus=1)
    assert driver.get(0x18, 2) == 512


def test_ports_of_consoles_are_numbered_from_nought(start_board: Start, tmp_path: Path) -> None:
    chardevs = [word for n in (0, 1) for word in ("-chardev", f"file,id=c{n},path={tmp_path}/c{n}")]
    serial = ("-device", "virtio-serial-device", *chardevs)
    ports = (
        "-device", "virtconsole,chardev=c0,id=a,nr=0", "-device", "virtconsole,chardev=c1,nr=1",
    )  # fmt: skip
    start_board(*serial, *ports).cpu.value(f"readl {BASE:x}")
    swapped = ("-device", "virtconsole,chardev=c0,nr=1", "-device", "virtconsole,chardev=c1,nr=0")
    machine = start_board(*serial, *swapped).machine
    assert machine.wait() == 1
    assert "nr must be 0, the next port of its device, not 1" in machine.errors.decode()


def test_a_tap_without_scripts_is_what_there_is(start_board: Start, tmp_path: Path) -> None:
    qmp = tmp_path / "qmp"
    start_board("-qmp", f"unix:{qmp},server,nowait")
    with QmpClient(qmp) as client:
        for script in ("no", ""):
            with pytest.raises(ExecuteError, match="cannot use it"):
                client.cmd(
                    "netdev_add", id="n", type="tap", ifname="lo", script=script, downscript=script
                )
        with pytest.raises(ExecuteError, match="script must be no or empty"):
            client.cmd("netdev_add", id="n", ifname="lo", script="/etc/qemu-ifup")
