"""Hot-replace: back ends and devices added and removed over QMP, seen by a driver and the host."""

import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from qemu.qmp.qmp_client import ExecuteError

from tests.board.conftest import Board
from tests.board.virtio_driver import BASE, FLUSH, GET_ID, IN, OUT, SLOT_BYTES, BlkDriver
from tests.machine_process import QmpClient, wait_until

Start = Callable[..., Board]
FIRST_SLOT, FIRST_GSI = 11, 17
"""Behind the eleven of -device."""
OK, IOERR = 0, 1


@pytest.fixture
def monitored(start_board: Start, tmp_path: Path) -> Iterator[tuple[Board, QmpClient]]:
    """A board with an iothread, and its monitor."""
    path = tmp_path / "qmp"
    board = start_board("-qmp", f"unix:{path},server,nowait", "-object", "iothread,id=io")
    with QmpClient(path) as client:
        yield board, client


def slot(board: Board, number: int) -> BlkDriver:
    return BlkDriver(board.cpu, BASE + (FIRST_SLOT + number) * SLOT_BYTES, FIRST_GSI + number)


def image_of(folder: Path, name: str, sectors: int) -> Path:
    path = folder / name
    path.write_bytes(os.urandom(sectors * 512))
    return path


def add_disk(client: QmpClient, name: str, path: Path, number: int, **more: object) -> None:
    client.cmd(
        "blockdev-add",
        **{
            "node-name": name, "driver": "raw", "cache": {"direct": False},
            "file": {"driver": "file", "filename": str(path)},
        },
    )  # fmt: skip
    client.cmd("device_add", id=name, driver="virtio-blk-mmio", addr=hex(number), **more)


def remove_disk(client: QmpClient, name: str) -> None:
    client.cmd("device_del", id=name)
    event = client.wait_event("DEVICE_DELETED")
    assert event["data"] == {"device": name, "path": f"/machine/peripheral/{name}"}
    # The back end went with the device; to remove it once more is no mistake.
    client.cmd("blockdev-del", **{"node-name": name})


def refused(client: QmpClient, command: str, **arguments: object) -> str:
    with pytest.raises(ExecuteError) as caught:
        client.cmd(command, **arguments)
    return str(caught.value)


def test_a_driver_at_work_sees_disks_come_and_go(
    monitored: tuple[Board, QmpClient], tmp_path: Path
) -> None:
    board, client = monitored
    driver = slot(board, 2)
    assert (driver.get(8), driver.capacity()) == (2, 0)
    driver.start()
    assert driver.request(IN, 0, length=512)[0] == IOERR
    for turn, iothread in enumerate(({}, {"iothread": "io"}, {})):
        image = image_of(tmp_path, f"disk{turn}", 100 + turn)
        add_disk(client, f"d{turn}", image, 2, serial=f"serial-{turn}", **iothread)
        assert driver.interrupted() and driver.get(0x60) & 2
        driver.set(0x64, 3)
        assert driver.capacity() == 100 + turn
        assert driver.request(IN, 99, length=512) == (OK, image.read_bytes()[99 * 512 : 100 * 512])
        assert driver.request(OUT, 0, data=b"n" * 512)[0] == OK
        assert driver.request(FLUSH, 0)[0] == OK
        assert driver.request(GET_ID, 0, length=20)[1].rstrip(b"\0") == b"serial-%d" % turn
        assert [entry["qdev"] for entry in client.cmd("query-block")] == [f"d{turn}"]
        assert client.cmd("qom-get", path=f"/machine/peripheral/d{turn}", property="addr") == 2
        remove_disk(client, f"d{turn}")
        assert image.read_bytes()[:512] == b"n" * 512
        assert driver.interrupted() and driver.capacity() == 0
        assert driver.request(IN, 0, length=512)[0] == IOERR
        assert client.cmd("query-named-block-nodes") == []


def test_an_added_disk_counts_from_zero_and_on_through_a_reset(
    monitored: tuple[Board, QmpClient], tmp_path: Path
) -> None:
    board, client = monitored
    driver = slot(board, 0)
    driver.start()
    for name, reads in (("first", 3), ("second", 1)):
        assert driver.request(IN, 0, length=512)[0] == IOERR, "an empty slot's are nobody's"
        add_disk(client, name, image_of(tmp_path, name, 8), 0)

        def counted(name: str = name) -> dict[str, int]:
            (entry,) = client.cmd("query-blockstats")
            assert (entry["device"], entry["qdev"]) == (name, name)
            stats: dict[str, int] = entry["stats"]
            return stats

        assert not any(counted().values())
        for _ in range(reads):
            assert driver.request(IN, 0, length=512)[0] == OK
        assert (counted()["rd_operations"], counted()["rd_bytes"]) == (reads, 512 * reads)
        client.cmd("system_reset")
        assert counted()["rd_operations"] == reads
        driver = slot(board, 0)
        driver.start()
        remove_disk(client, name)
    assert client.cmd("query-blockstats") == []


def test_an_image_is_closed_with_its_device_and_its_names_are_free(
    monitored: tuple[Board, QmpClient], tmp_path: Path
) -> None:
    board, client = monitored
    image = image_of(tmp_path, "disk", 8)
    add_disk(client, "d", image, 0)
    assert open_images(board, tmp_path) == [image]
    client.cmd("device_del", id="d")
    assert client.cmd("query-named-block-nodes") == [] and not open_images(board, tmp_path)
    add_disk(client, "d", image, 3)
    driver = slot(board, 3)
    driver.start()
    assert driver.request(IN, 7, length=512) == (OK, image.read_bytes()[7 * 512 :])
    remove_disk(client, "d")
    assert "there is no block node d" in refused(client, "blockdev-del", **{"node-name": "d"})


def open_images(board: Board, folder: Path) -> list[Path]:
    fds = Path(f"/proc/{board.machine.process.pid}/fd").iterdir()
    return [path for fd in fds if (path := Path(os.readlink(fd))).parent == folder]


def test_disks_of_the_command_line_have_the_first_slots_and_can_be_replaced(
    start_board: Start, tmp_path: Path
) -> None:
    path = tmp_path / "qmp"
    images = [image_of(tmp_path, f"disk{n}", 8 + n) for n in range(5)]
    disks = [
        word
        for n in range(2)
        for word in ("-drive", f"id=f{n},file={images[n]},direct=off",
                     "-device", f"virtio-blk-device,drive=f{n},id=d{n}")
    ]  # fmt: skip
    board = start_board("-qmp", f"unix:{path},server,nowait", *disks)
    present = [n for n in range(20) if board.cpu.value(f"readl {BASE + n * SLOT_BYTES + 8:x}") == 2]
    assert present == [0, 1, FIRST_SLOT + 2, FIRST_SLOT + 3]
    first = BlkDriver(board.cpu, BASE, 5)
    first.start()
    with QmpClient(path) as client:
        node = {"node-name": "f0"}
        assert "the block node f0 is in use by d0" in refused(client, "blockdev-del", **node)
        blk = {"driver": "virtio-blk-mmio"}
        for addr in (0, 1):
            text = refused(client, "device_add", id="n", addr=addr, **blk)
            assert f"block slot {addr} is taken by d{addr}" in text
        add_disk(client, "vdc", images[2], 2)
        assert slot(board, 2).capacity() == 10
        remove_disk_of(client, "d0", "f0")
        assert not [p for p in open_images(board, tmp_path) if p == images[0]]
        assert first.capacity() == 0
        for turn in range(3):
            add_disk(client, "d0", images[3 + turn % 2], 0)
            assert first.capacity() == 11 + turn % 2
            content = images[3 + turn % 2].read_bytes()[512:1024]
            assert first.request(IN, 1, length=512) == (OK, content)
            remove_disk(client, "d0")


def remove_disk_of(client: QmpClient, device: str, drive: str) -> None:
    client.cmd("device_del", id=device)
    assert client.wait_event("DEVICE_DELETED")["data"]["device"] == device
    client.cmd("blockdev-del", **{"node-name": drive})


def test_more_disks_than_slots_are_ordinary_devices(start_board: Start, tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    disks = []
    for n in range(5):
        image = image_of(tmp_path, f"disk{n}", 8)
        disks += ["-drive", f"id=f{n},file={image},direct=off"]
        disks += ["-device", f"virtio-blk-device,drive=f{n},id=d{n}"]
    board = start_board("-qmp", f"unix:{path},server,nowait", *disks)
    present = [n for n in range(20) if board.cpu.value(f"readl {BASE + n * SLOT_BYTES + 8:x}") == 2]
    assert present == [0, 1, 2, 3, 4]
    with QmpClient(path) as client:
        assert "is there from the start" in refused(client, "device_del", id="d4")
        client.cmd("device_del", id="d3")


def test_a_switch_leaves_the_empty_devices_out(start_board: Start, tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    board = start_board(
        "-qmp", f"unix:{path},server,nowait", board="microvm,hot-replace=off"
    )  # fmt: skip
    assert slot(board, 0).get(0) == 0
    with QmpClient(path) as client:
        text = refused(client, "device_add", id="d", driver="virtio-blk-mmio", addr="0x0")
        assert "no machine that could take devices" in text


def test_what_cannot_be_is_refused_and_changes_nothing(start_board: Start, tmp_path: Path) -> None:
    path, image = tmp_path / "qmp", image_of(tmp_path, "disk", 8)
    start_board(
        "-qmp", f"unix:{path},server,nowait", "-drive", f"id=boot,file={image},direct=off",
        "-device", "virtio-blk-device,drive=boot,id=bootdisk",
    )  # fmt: skip
    second = image_of(tmp_path, "second", 8)
    node: dict[str, object] = {
        "node-name": "n", "file": {"filename": str(second)}, "cache": {"direct": False},
    }  # fmt: skip
    with QmpClient(path) as client:

        def say(command: str, **arguments: object) -> str:
            return refused(client, command, **arguments)

        assert "cannot open: No such file" in say(
            "blockdev-add", **{**node, "file": {"filename": "/nowhere"}}
        )
        assert "in use by this machine already" in say(
            "blockdev-add", **{**node, "file": {"filename": str(image)}}
        )
        assert "file: filename is missing" in say("blockdev-add", **{**node, "file": {}})
        assert "file must be an object" in say("blockdev-add", **{**node, "file": "x"})
        assert "another block node has the name boot" in say(
            "blockdev-add", **{**node, "node-name": "boot"}
        )
        client.cmd("blockdev-add", **node)
        assert "another block node has the name n" in say("blockdev-add", **node)
        blk = {"driver": "virtio-blk-mmio"}
        assert "addr must be a number from 0 to 3" in say("device_add", id="a", addr="0x4", **blk)
        assert "there is no block node a" in say("device_add", id="a", addr="0x1", **blk)
        assert "no -object iothread has the id t" in say(
            "device_add", id="n", addr="0x1", iothread="t", **blk
        )
        assert "another device has the id bootdisk" in say(
            "device_add", id="bootdisk", addr="0x1", drive="n", **blk
        )
        client.cmd("device_add", id="n", addr="0x1", **blk)
        assert "another device has the id n" in say("device_add", id="n", addr="0x2", **blk)
        assert "block slot 1 is taken by n" in say("device_add", id="m", addr="0x1", **blk)
        assert "the block node n is in use by n" in say(
            "device_add", id="m", addr="0x2", drive="n", **blk
        )
        assert "the block node n is in use by n" in say("blockdev-del", **{"node-name": "n"})
        assert "Device 'x' not found" in say("device_del", id="x")
        assert "there is no netdev x" in say("netdev_del", id="x")
        assert "unknown driver 'e1000'" in say("device_add", id="e", driver="e1000")
        assert "unknown back end 'user'" in say("netdev_add", id="e", type="user")
        assert "no file descriptor is called 'f'" in say("netdev_add", id="e", type="tap", fd="f")
        assert "cannot use it" in say("netdev_add", id="e", type="tap", ifname="lo")


def test_a_paused_machine_takes_a_disk_and_serves_it_when_it_goes_on(
    monitored: tuple[Board, QmpClient], tmp_path: Path
) -> None:
    board, client = monitored
    driver = slot(board, 0)
    driver.start()
    client.cmd("stop")
    add_disk(client, "d", image_of(tmp_path, "disk", 8), 0)
    driver.cpu.write(0x20_0000, struct.pack("<IIQ", IN, 0, 0))
    driver.ring.offer(driver.ring.chain([(0x20_0000, 16, False), (0x21_0000, 513, True)]))
    driver.set(0x50, 0)
    time.sleep(0.2)
    assert driver.ring.used_index() == 0
    client.cmd("cont")
    driver.wait()
    assert driver.cpu.read(0x21_0200, 1) == b"\0"


@pytest.mark.measures_memory
def test_a_thousand_replacements_under_load_leave_nothing_behind(
    start_board: Start, tmp_path: Path
) -> None:
    path = tmp_path / "qmp"
    board = start_board("-qmp", f"unix:{path},server,nowait")
    images = [image_of(tmp_path, f"disk{n}", 2048) for n in range(2)]
    driver = slot(board, 1)
    driver.start()
    process = Path(f"/proc/{board.machine.process.pid}")
    ended = threading.Event()
    seen: set[int] = set()

    def load() -> None:
        while not ended.is_set():
            seen.add(driver.request(OUT, 0, data=b"l" * 512)[0])

    def held() -> tuple[int, int]:
        rss = int((process / "statm").read_text().split()[1]) * 4096
        return len(list((process / "fd").iterdir())), rss

    thread = threading.Thread(target=load)
    thread.start()
    with QmpClient(path) as client:

        def replace(count: int) -> None:
            # At most a hundred commands a second are served.
            for turn in range(count):
                began = time.monotonic()
                client.cmd("device_add", id="d", driver="virtio-blk-mmio", addr=1, drive="n")
                client.cmd("device_del", id="d")
                add(turn % 2)
                time.sleep(max(0.0, began + 0.025 - time.monotonic()))

        def add(which: int) -> None:
            file = {"filename": str(images[which])}
            client.cmd(
                "blockdev-add", **{"node-name": "n", "file": file, "cache": {"direct": False}}
            )

        add(0)
        replace(50)
        fds, rss = held()
        replace(1000)
        wait_until(lambda: held()[0] == fds, f"{fds} descriptors again, not {held()[0]}")
        assert held()[1] < rss + (1 << 20)
        ended.set()
        thread.join()
        assert seen == {OK, IOERR}
        # Still sound: the disk comes back and works.
        client.cmd("device_add", id="d", driver="virtio-blk-mmio", addr=1, drive="n")
        assert driver.request(OUT, 3, data=b"last" * 128)[0] == OK
        assert images[1].read_bytes()[3 * 512 : 4 * 512] == b"last" * 128


def test_a_descriptor_sent_for_a_netdev_that_is_refused_is_closed(
    start_board: Start, tmp_path: Path
) -> None:
    path = tmp_path / "qmp"
    board = start_board("-qmp", f"unix:{path},server,nowait")
    process = Path(f"/proc/{board.machine.process.pid}/fd")
    with QmpClient(path) as client:
        before = len(list(process.iterdir()))
        for _ in range(10):
            # An eventfd is no tap.
            for name in ("f", "v"):
                fd = os.eventfd(0)
                client.send_descriptor(fd)
                client.cmd("getfd", fdname=name)
                os.close(fd)
            text = refused(
                client, "netdev_add", id="n", type="tap", fd="f", vhost=True, vhostfd="v"
            )
            assert "not a tap" in text
        assert len(list(process.iterdir())) == before


def test_without_a_monitor_there_are_no_slots(start_board: Start) -> None:
    assert slot(start_board(), 0).get(0) == 0


def test_what_managers_send_by_habit_is_taken_and_nothing_that_means_something_else(
    monitored: tuple[Board, QmpClient], tmp_path: Path
) -> None:
    board, client = monitored
    image = image_of(tmp_path, "disk", 8)
    node: dict[str, object] = {
        "node-name": "d", "file": {"filename": str(image)}, "discard": "unmap",
        "cache": {"direct": False, "no-flush": False},
    }  # fmt: skip
    changes: list[tuple[dict[str, object], str]] = [
        ({"cache": {"no-flush": True}}, "no-flush must be off"),
        ({"discard": "ignore"}, "discard must be unmap or on"),
    ]
    for change, text in changes:
        assert text in refused(client, "blockdev-add", **{**node, **change})
    client.cmd("blockdev-add", **node)
    blk: dict[str, object] = {"id": "d", "driver": "virtio-blk-mmio", "addr": "0x0"}
    changes = [
        ({"romfile": "efi.rom"}, "romfile must be empty"),
        ({"disable-modern": "on"}, "disable-modern must be off"),
        ({"write-cache": "off"}, "write-cache must be on or auto"),
        ({"logical_block_size": 4096}, "logical_block_size must be a number from 512 to 512"),
        ({"num-queues": 2}, "num-queues must be 1 in block slot 0"),
    ]
    for change, text in changes:
        assert text in refused(client, "device_add", **{**blk, **change})
    client.cmd(
        "device_add",
        **blk,
        **{
            "romfile": "", "disable-modern": "off", "share-rw": "on", "write-cache": "on",
            "logical_block_size": 512, "num-queues": 1, "vectors": 2, "queue-size": 256,
        },
    )  # fmt: skip
    # No type means a tap.
    assert "ifname, fd or fds is missing" in refused(client, "netdev_add", id="n")
    assert client.cmd("query-memory-devices") == []
    board.cpu.write(0x10_0000, b"\x78\x56\x34\x12")
    for gpa in ("100000", "0x100000"):
        assert client.cmd("query-mem-gpa", gpa=gpa) == "0x12345678"
