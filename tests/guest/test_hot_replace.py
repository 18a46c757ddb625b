"""Hot-replace under Linux's own drivers: disks and cards come and go while others work."""

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.conftest import Boot
from tests.guest.test_net import HOST, MakeTap, make_tap, send_to_guest
from tests.machine_process import MachineProcess, QmpClient

__all__ = ["make_tap"]

MIB = 1 << 20
GUEST = "192.168.77.3"
Machine = tuple[MachineProcess, QmpClient]


@pytest.fixture
def machine(ready: Boot, root_image: Path, tmp_path: Path) -> Iterator[Machine]:
    """A guest with one disk and a monitor."""
    path = tmp_path / "qmp"
    guest = ready(
        "-smp", "2", "-qmp", f"unix:{path},server,nowait", "-object", "iothread,id=io",
        "-drive", f"id=d,file={root_image},direct=off", "-device", "virtio-blk-device,drive=d",
    )  # fmt: skip
    with QmpClient(path) as client:
        yield guest, client


def add_disk(client: QmpClient, name: str, path: Path, slot: int, **more: object) -> None:
    client.cmd("blockdev-add", **{"node-name": name, "file": {"filename": str(path)}})
    client.cmd("device_add", id=name, driver="virtio-blk-mmio", addr=hex(slot), **more)


def remove_disk(client: QmpClient, name: str) -> None:
    client.cmd("device_del", id=name)
    assert client.wait_event("DEVICE_DELETED")["data"]["device"] == name
    client.cmd("blockdev-del", **{"node-name": name})


def wait_for(guest: MachineProcess, file: str, value: int) -> None:
    """Until the guest reads `value` in `file`."""
    guest.command(f"while [ $(cat {file}) != {value} ]; do sleep 0.1; done")


def open_files(guest: MachineProcess, folder: Path) -> set[str]:
    """The files in `folder` that the machine holds open, and the device of taps."""
    links = {os.readlink(fd) for fd in Path(f"/proc/{guest.process.pid}/fd").iterdir()}
    return {
        path for path in links if path == "/dev/net/tun" or Path(path).parent == folder / "images"
    }


def plug_again_and_again(
    guest: MachineProcess, client: QmpClient, taps: list[str], folder: Path
) -> None:
    """Kata's sequence: addr 1 is vdb, and the same ids come and go and come again."""
    (folder / "images").mkdir()
    carriers = [f"/sys/class/net/eth{number}/carrier" for number in range(len(taps))]
    for number in range(len(taps)):
        guest.command(f"ip link set eth{number} up")
    for turn in range(3):
        images = []
        for number in range(3):
            image = folder / "images" / f"disk{number}"
            image.write_bytes(os.urandom((1 + number + turn) * MIB))
            images.append(image)
            add_disk(client, f"drive-{number}", image, 1 + number)
        for number, tap in enumerate(taps):
            client.cmd("netdev_add", id=f"network-{number}", type="tap", ifname=tap)
            client.cmd(
                "device_add", id=f"network-{number}", driver="virtio-net-mmio", addr=hex(number)
            )
        for image, name in zip(images, ("vdb", "vdc", "vdd"), strict=True):
            content = image.read_bytes()
            wait_for(guest, f"/sys/block/{name}/size", len(content) // 512)
            assert (
                guest.command(f"md5sum /dev/{name}").split()[0] == hashlib.md5(content).hexdigest()
            )
        for carrier in carriers:
            wait_for(guest, carrier, 1)
        assert open_files(guest, folder) == {"/dev/net/tun", *map(str, images)}
        for number in (1, 2, 0):
            remove_disk(client, f"drive-{number}")
        for number in range(len(taps)):
            client.cmd("device_del", id=f"network-{number}")
            assert client.wait_event("DEVICE_DELETED")["data"]["device"] == f"network-{number}"
            client.cmd("netdev_del", id=f"network-{number}")
        assert open_files(guest, folder) == set()
        for file in (
            "/sys/block/vdb/size",
            "/sys/block/vdc/size",
            "/sys/block/vdd/size",
            *carriers,
        ):
            wait_for(guest, file, 0)


def test_the_guest_uses_what_is_put_into_a_slot(
    machine: Machine, make_tap: MakeTap, tmp_path: Path
) -> None:
    guest, client = machine
    # The disk of the command line has the first of four.
    assert guest.command("cat /sys/block/vd?/size").split()[1:] == ["0"] * 3
    for turn in range(3):
        disk = tmp_path / f"disk{turn}"
        content = os.urandom((turn + 1) * MIB)
        disk.write_bytes(content)
        add_disk(client, f"d{turn}", disk, turn + 1, serial=f"s{turn}", iothread="io")
        device = f"vd{'bcd'[turn]}"
        wait = f"while [ $(cat /sys/block/{device}/size) = 0 ]; do sleep 0.1; done"
        guest.command(wait)
        assert guest.command(f"cat /sys/block/{device}/serial").strip() == f"s{turn}"
        assert guest.command(f"md5sum /dev/{device}").split()[0] == hashlib.md5(content).hexdigest()
        guest.command(f"dd if=/dev/vda of=/dev/{device} bs=64k count=8 conv=fsync 2>/dev/null")
        written = guest.command("dd if=/dev/vda bs=64k count=8 2>/dev/null | md5sum").split()[0]
        remove_disk(client, f"d{turn}")
        assert hashlib.md5(disk.read_bytes()[: 512 << 10]).hexdigest() == written
        guest.command(wait.replace("= 0", "!= 0"))
        gone = f"dd if=/dev/{device} bs=4k count=1 iflag=direct 2>/dev/null | wc -c"
        assert guest.command(gone).strip() == "0"
    plug_again_and_again(guest, client, [make_tap(), make_tap()], tmp_path)


def test_replacing_under_load_harms_neither_the_disk_nor_its_neighbour(
    machine: Machine, tmp_path: Path, root_image: Path
) -> None:
    guest, client = machine
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(8 * MIB))
    ended = threading.Event()

    def replace() -> None:
        while not ended.is_set():
            add_disk(client, "hot", disk, 1)
            time.sleep(0.3)
            remove_disk(client, "hot")
            time.sleep(0.1)

    thread = threading.Thread(target=replace, daemon=True)
    thread.start()
    digest = hashlib.md5(root_image.read_bytes()).hexdigest()
    # One reader on the disk that stays, one on the slot, which fails now and then.
    guest.command(
        "n=0; while [ $n -lt 200 ]; do dd if=/dev/vdb of=/dev/null bs=64k count=16 iflag=direct "
        "2>/dev/null; n=$((n+1)); done & md5sum /dev/vda >/sum1; "
        "echo 3 >/proc/sys/vm/drop_caches; md5sum /dev/vda >/sum2; wait"
    )
    ended.set()
    thread.join()
    for name in ("/sum1", "/sum2"):
        assert guest.command(f"cat {name}").split()[0] == digest
    add_disk(client, "hot", disk, 1)
    guest.command("while [ $(cat /sys/block/vdb/size) = 0 ]; do sleep 0.1; done")
    guest.command("dd if=/dev/vda of=/dev/vdb bs=1M count=8 conv=fsync 2>/dev/null")
    assert disk.read_bytes() == root_image.read_bytes()[: 8 * MIB]


def test_a_card_gets_a_link_and_loses_it(machine: Machine, make_tap: MakeTap) -> None:
    guest, client = machine
    tap = make_tap()
    guest.command(f"ip link set eth1 up; ip addr add {GUEST}/24 dev eth1")
    for turn, vhost in enumerate((False, True, False)):
        assert guest.command("cat /sys/class/net/eth1/carrier").strip() == "0"
        client.cmd("netdev_add", id=f"n{turn}", type="tap", ifname=tap, vhost=vhost)
        client.cmd("device_add", id=f"n{turn}", driver="virtio-net-mmio", addr="0x1")
        guest.command("while [ $(cat /sys/class/net/eth1/carrier) = 0 ]; do sleep 0.1; done")
        assert ", 0% packet loss" in guest.command(f"ping -c 3 -i 0.2 {HOST}")
        content = os.urandom(4 * MIB)
        assert send_to_guest(guest, content) == hashlib.md5(content).hexdigest()
        client.cmd("device_del", id=f"n{turn}")
        assert client.wait_event("DEVICE_DELETED")["data"]["device"] == f"n{turn}"
        client.cmd("netdev_del", id=f"n{turn}")
        guest.command("while [ $(cat /sys/class/net/eth1/carrier) = 1 ]; do sleep 0.1; done")


def test_a_driver_that_is_bound_again_reads_the_new_cards_address(
    machine: Machine, make_tap: MakeTap
) -> None:
    guest, client = machine
    client.cmd("netdev_add", id="n", type="tap", ifname=make_tap())
    client.cmd("device_add", id="n", driver="virtio-net-mmio", addr="0x0", mac="12:34:56:78:9A:BC")
    driver = "/sys/bus/virtio/drivers/virtio_net"
    guest.command(
        f"n=$(basename $(readlink -f /sys/class/net/eth0/device)); "
        f"echo $n >{driver}/unbind; echo $n >{driver}/bind"
    )
    assert "12:34:56:78:9a:bc" in guest.command("cat /sys/class/net/eth*/address")
    name = guest.command("cd /sys/class/net; grep -l 12:34 */address | cut -d/ -f1").strip()
    guest.command(f"ip link set {name} up; ip addr add {GUEST}/24 dev {name}")
    assert ", 0% packet loss" in guest.command(f"ping -c 3 -i 0.2 {HOST}")
