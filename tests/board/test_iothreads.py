"""iothreads: which thread serves a device, and that sharing one changes nothing else."""

import os
from collections.abc import Callable
from pathlib import Path

from tests.board.conftest import Board
from tests.board.virtio_driver import BASE, IN, OUT, SLOT_BYTES, BlkDriver
from tests.machine_process import QmpClient, wait_until

Start = Callable[..., Board]


def test_devices_of_one_iothread_share_its_thread(start_board: Start, tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    argv = ["-qmp", f"unix:{path},server,nowait", "-object", "iothread,id=io1"]
    argv += ["-object", "iothread,id=io2"]
    images = []
    for index in range(4):
        images.append(tmp_path / f"disk{index}")
        images[-1].write_bytes(os.urandom(4096))
        argv += ["-drive", f"id=d{index},file={images[-1]},direct=off"]
        iothread = "" if index == 3 else f",iothread=io{index % 2 + 1}"
        argv += ["-device", f"virtio-blk-device,drive=d{index},id=disk{index}{iothread}"]
    board = start_board(*argv)
    tasks = Path(f"/proc/{board.machine.process.pid}/task")
    with QmpClient(path) as client:
        threads = {entry["id"]: entry["thread-id"] for entry in client.cmd("query-iothreads")}
        assert set(threads) == {"io1", "io2"}
        assert set(threads.values()) <= {int(task.name) for task in tasks.iterdir()}
        before = len(list(tasks.iterdir()))
        drivers = [BlkDriver(board.cpu, BASE + index * SLOT_BYTES, 5 + index) for index in range(4)]
        for index, driver in enumerate(drivers):
            driver.start(at=0x10_0000 + 0x1000 * index)
            # Only the disk without an iothread has a thread of its own.
            assert len(list(tasks.iterdir())) == before + (index == 3)
        wait_until(
            lambda: (
                {"io1", "io2", "blk-disk3"}
                <= {(task / "comm").read_text()[:-1] for task in tasks.iterdir()}
            ),
            "the threads have their names",
        )
        for _ in range(3):
            for driver, image in zip(drivers, images, strict=True):
                assert driver.request(IN, 7, length=512) == (0, image.read_bytes()[-512:])
                assert driver.request(OUT, 0, data=b"x" * 512)[0] == 0
            # One that leaves does not take the others' thread along.
            drivers[0].start(at=0x10_0000)
            client.cmd("stop")
            client.cmd("cont")


def test_a_broken_ring_does_not_stop_the_others_of_its_iothread(
    start_board: Start, tmp_path: Path
) -> None:
    argv = ["-object", "iothread,id=io"]
    for index in range(2):
        image = tmp_path / f"disk{index}"
        image.write_bytes(bytes(4096))
        argv += ["-drive", f"id=d{index},file={image},direct=off"]
        argv += ["-device", f"virtio-blk-device,drive=d{index},iothread=io"]
    board = start_board(*argv)
    bad, good = (BlkDriver(board.cpu, BASE + i * SLOT_BYTES, 5 + i) for i in range(2))
    bad.start(at=0x10_0000)
    good.start(at=0x10_1000)
    board.cpu.write(bad.ring.avail + 2, b"\xff\xff")
    bad.set(0x50, 0)
    bad.wait_needs_reset()
    assert good.request(IN, 0, length=512)[0] == 0
    bad.start(at=0x10_0000)
    assert bad.request(IN, 0, length=512)[0] == 0
