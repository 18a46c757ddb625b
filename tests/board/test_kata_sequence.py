"""Kata's sequence: disks and cards plugged, unplugged and plugged again under the same ids."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.board.conftest import Board
from tests.board.test_hot_replace import FIRST_GSI, FIRST_SLOT, image_of, open_images
from tests.board.virtio_driver import BASE, IN, RING, SLOT_BYTES, BlkDriver, MmioDriver
from tests.machine_process import QmpClient

Start = Callable[..., Board]
STATUS_AT = 0x106
"""Where struct virtio_net_config has its status, in a device's registers."""


@pytest.fixture
def taps() -> Iterator[list[str]]:
    names = ["svkata0", "svkata1"]
    for name in names:
        subprocess.run(["ip", "tuntap", "add", name, "mode", "tap"], check=True)
    yield names
    for name in names:
        subprocess.run(["ip", "link", "del", name], check=False)


def open_taps(board: Board) -> int:
    fds = Path(f"/proc/{board.machine.process.pid}/fd").iterdir()
    return sum(os.readlink(fd) == "/dev/net/tun" for fd in fds)


def test_disks_and_cards_come_and_go_and_come_again_under_the_same_ids(
    start_board: Start, taps: list[str], tmp_path: Path
) -> None:
    path, rootfs = tmp_path / "qmp", image_of(tmp_path, "rootfs", 64)
    board = start_board(
        "-qmp", f"unix:{path},server,nowait",
        "-drive", f"id=rootfs,file={rootfs},direct=off",
        "-device", "virtio-blk-device,drive=rootfs,id=virtio-drive0",
    )  # fmt: skip
    # vda is of the command line; vdb, vdc and vdd are the next that a guest finds, in order.
    disks = [
        BlkDriver(board.cpu, BASE + (FIRST_SLOT + addr) * SLOT_BYTES, FIRST_GSI + addr)
        for addr in (1, 2, 3)
    ]
    cards = [
        MmioDriver(board.cpu, BASE + (FIRST_SLOT + 4 + number) * SLOT_BYTES) for number in (0, 1)
    ]
    for number, disk in enumerate(disks):
        disk.start(at=RING + number * 0x1000)
    with QmpClient(path) as client:

        def deleted(name: str) -> None:
            client.cmd("device_del", id=name)
            event = client.wait_event("DEVICE_DELETED")
            assert event["data"] == {"device": name, "path": f"/machine/peripheral/{name}"}

        for turn in range(3):
            images = [image_of(tmp_path, f"image{n}", 10 * turn + n + 1) for n in range(3)]
            for number, image in enumerate(images):
                client.cmd(
                    "blockdev-add",
                    **{
                        "node-name": f"drive-{number}", "driver": "raw",
                        "cache": {"direct": False, "no-flush": False}, "read-only": False,
                        "file": {"driver": "file", "filename": str(image)},
                    },
                )  # fmt: skip
                client.cmd(
                    "device_add",
                    id=f"drive-{number}", driver="virtio-blk-mmio", addr=str(number + 1),
                    **{"share-rw": True},
                )  # fmt: skip
            for number, tap in enumerate(taps):
                client.cmd("netdev_add", id=f"network-{number}", type="tap", ifname=tap)
                client.cmd(
                    "device_add",
                    id=f"network-{number}", driver="virtio-net-mmio", addr=str(number),
                    mac=f"02:00:ca:fe:00:0{number}", romfile="",
                )  # fmt: skip
            for image, disk in zip(images, disks, strict=True):
                content = image.read_bytes()
                assert disk.capacity() == len(content) // 512
                assert disk.request(IN, 0, length=512) == (0, content[:512])
            for number, card in enumerate(cards):
                assert board.cpu.read(card.base + 0x100, 6) == b"\x02\x00\xca\xfe\0" + bytes(
                    [number]
                )
                assert board.cpu.read(card.base + STATUS_AT, 2) == b"\x01\0"
            assert sorted(open_images(board, tmp_path)) == [*images, rootfs]
            assert open_taps(board) == len(taps)
            # In another order than they came in.
            for number in (1, 2, 0):
                deleted(f"drive-{number}")
                client.cmd("blockdev-del", **{"node-name": f"drive-{number}"})
            for number in (0, 1):
                deleted(f"network-{number}")
                client.cmd("netdev_del", id=f"network-{number}")
            assert open_images(board, tmp_path) == [rootfs] and open_taps(board) == 0
            assert [disk.capacity() for disk in disks] == [0, 0, 0]
            assert [board.cpu.read(card.base + STATUS_AT, 2) for card in cards] == [b"\0\0"] * 2
