"""Hotplug behind root ports under Linux's own pciehp, with the guest's consent and without."""

import hashlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.conftest import Boot, Tools
from tests.guest.test_net import HOST, MakeTap, ip, make_tap, send_to_guest
from tests.machine_process import MachineProcess, QmpClient

__all__ = ["make_tap"]

MIB = 1 << 20
TURNS = 10
GUEST = "192.168.77.4"
FIO = (
    "chroot /tools fio --name=s --filename=/dev/vda --direct=1 --rw=randwrite --bs=4k "
    "--size=4M --iodepth=2 --rate_iops=150 --ioengine=libaio --verify=crc32c --verify_fatal=1 "
)
STEADY_HOST, STEADY_GUEST = "192.168.78.1", "192.168.78.2"
IPERF3 = f"chroot /tools iperf3 -c {STEADY_HOST} -t 4 -b 8M --connect-timeout 20000 "


@pytest.fixture
def steady_tap() -> Iterator[str]:
    """A tap of its own network, with an iperf3 server behind it."""
    ip("tuntap", "add", "steady", "mode", "tap")
    ip("addr", "add", f"{STEADY_HOST}/24", "dev", "steady")
    ip("link", "set", "steady", "up")
    with subprocess.Popen(["iperf3", "-s", "-B", STEADY_HOST], stdout=subprocess.DEVNULL) as server:
        yield "steady"
        server.kill()
    ip("link", "del", "steady")


def keep_busy(guest: MachineProcess, name: str, job: str) -> None:
    """Have the guest repeat a job until it is told to stop; a failure of it is kept in /bad."""
    guest.command(
        f"(n=0; while [ ! -e /stop ]; do {job} >/tmp/{name} 2>&1 || cat /tmp/{name} >>/bad; "
        f"n=$((n+1)); done; echo $n >/ended-{name}) & sleep 0"
    )


def wait_for(guest: MachineProcess, condition: str) -> None:
    """Have the guest wait until a shell condition holds."""
    guest.command(
        f"n=0; while ! {condition}; do sleep 0.1; n=$((n+1)); [ $n = 600 ] && break; done; true"
    )
    guest.command(condition)


def open_files(guest: MachineProcess) -> int:
    return len(os.listdir(f"/proc/{guest.process.pid}/fd"))


def plug(client: QmpClient, disk: Path, tap: str, turn: int) -> None:
    client.cmd("blockdev-add", **{"node-name": "node", "file": {"filename": str(disk)}})
    client.cmd("device_add", id="disk", driver="virtio-blk-pci", bus="p1", addr="0x0",
               drive="node", serial=f"turn{turn}")  # fmt: skip
    client.cmd("netdev_add", id="net", type="tap", ifname=tap)
    client.cmd("device_add", id="card", driver="virtio-net-pci", bus="p2", netdev="net")


def unplug(client: QmpClient) -> None:
    for name in ("disk", "card"):
        client.cmd("device_del", id=name)
    gone = {client.wait_event("DEVICE_DELETED")["data"]["device"] for _ in range(2)}
    assert gone == {"disk", "card"}
    client.cmd("blockdev-del", **{"node-name": "node"})
    client.cmd("netdev_del", id="net")


@pytest.mark.parametrize("fast", ["0", "1"])
def test_devices_come_and_go_under_load(
    ready: Boot, make_tap: MakeTap, tools: type[Tools], root_image: Path, tmp_path: Path,
    steady_tap: str, fast: str,
) -> None:  # fmt: skip
    path, disk, tap = tmp_path / "qmp", tmp_path / "disk", make_tap()
    guest = ready(
        "-m", "384M", "-smp", "2", "-qmp", f"unix:{path},server,nowait",
        "-global", f"pcie-root-port.fast-unplug={fast}",
        "-drive", f"id=d,file={root_image},direct=off",
        "-device", "virtio-blk-pci,drive=d,bus=pcie.0,addr=0x3",
        "-drive", tools.drive,
        "-device", "virtio-blk-pci,drive=tools,serial=guest-tools,bus=pcie.0,addr=0x4",
        "-device", "pcie-root-port,id=p1,bus=pcie.0,addr=0x5.0x0,port=1,multifunction=on",
        "-device", "pcie-root-port,id=p2,bus=pcie.0,addr=0x5.0x1,port=2",
        "-netdev", f"tap,id=steady,ifname={steady_tap}",
        "-device", "virtio-net-pci,netdev=steady,bus=pcie.0,addr=0x6",
        board="q35",
    )  # fmt: skip
    tools.mount(guest)
    # Neighbours write and verify, and send, all the time.
    guest.command(f"ip link set eth0 up; ip addr add {STEADY_GUEST}/24 dev eth0")
    keep_busy(guest, "fio", FIO)
    keep_busy(guest, "iperf3", IPERF3)
    fds = 0
    with QmpClient(path) as client:
        for turn in range(TURNS):
            disk.write_bytes(os.urandom(4 * MIB))
            plug(client, disk, tap, turn)
            wait_for(guest, f"grep -q turn{turn} /sys/block/vd*/serial")
            wait_for(guest, "[ -e /sys/class/net/eth1 ]")
            device = guest.command(f"grep -l turn{turn} /sys/block/vd*/serial").split("/")[3]
            read = guest.command(f"md5sum /dev/{device}").split()[0]
            assert read == hashlib.md5(disk.read_bytes()).hexdigest()
            guest.command(
                f"dd if=/dev/urandom of=/dev/{device} bs=64k count=64 conv=fsync 2>/dev/null"
            )
            written = guest.command(f"md5sum /dev/{device}").split()[0]
            guest.command(f"ip link set eth1 up; ip addr add {GUEST}/24 dev eth1")
            assert ", 0% packet loss" in guest.command(f"ping -c 2 -i 0.2 {HOST}")
            content = os.urandom(MIB)
            assert send_to_guest(guest, content) == hashlib.md5(content).hexdigest()
            unplug(client)
            assert hashlib.md5(disk.read_bytes()).hexdigest() == written
            wait_for(guest, f"[ ! -e /sys/block/{device} -a ! -e /sys/class/net/eth1 ]")
            fds = fds or open_files(guest)
            assert open_files(guest) == fds
    guest.command("touch /stop")
    for name in ("fio", "iperf3"):
        wait_for(guest, f"[ -e /ended-{name} ]")
        assert int(guest.command(f"cat /ended-{name}")) > 0
    assert guest.command("cat /bad 2>/dev/null || true") == ""


def test_a_disk_is_unplugged_under_its_own_load(
    ready: Boot, tools: type[Tools], tmp_path: Path
) -> None:
    path, disk = tmp_path / "qmp", tmp_path / "disk"
    guest = ready(
        "-m", "384M", "-smp", "2", "-qmp", f"unix:{path},server,nowait",
        "-drive", tools.drive,
        "-device", "virtio-blk-pci,drive=tools,serial=guest-tools,bus=pcie.0,addr=0x4",
        "-device", "pcie-root-port,id=p1,bus=pcie.0,addr=0x5,port=1",
        board="q35",
    )  # fmt: skip
    tools.mount(guest)
    with QmpClient(path) as client:
        for turn in range(2):
            disk.write_bytes(bytes(8 * MIB))
            client.cmd("blockdev-add", **{"node-name": "node", "file": {"filename": str(disk)}})
            client.cmd("device_add", id="disk", driver="virtio-blk-pci", bus="p1", drive="node",
                       serial=f"turn{turn}")  # fmt: skip
            wait_for(guest, f"grep -q turn{turn} /sys/block/vd*/serial")
            device = guest.command(f"grep -l turn{turn} /sys/block/vd*/serial").split("/")[3]
            # Each block says which it is; those that were flushed are on the disk, whatever came.
            guest.command(
                f"(exec 5>/dev/{device}; n=0; while [ $n -lt 2000 ] && printf '%4095d\\n' $n | "
                "dd bs=4k conv=fsync >&5 2>/dev/null; do echo $n >/flushed; n=$((n+1)); done) & "
                "sleep 1"
            )
            client.cmd("device_del", id="disk")
            assert client.wait_event("DEVICE_DELETED")["data"]["device"] == "disk"
            client.cmd("blockdev-del", **{"node-name": "node"})
            wait_for(guest, f"[ ! -e /sys/block/{device} ]")
            flushed = int(guest.command("cat /flushed"))
            content = disk.read_bytes()
            for number in range(flushed + 1):
                block = content[4096 * number : 4096 * (number + 1)]
                assert int(block.decode()) == number


def test_a_guest_that_only_sends_is_told_what_has_left(
    ready: Boot, tools: type[Tools], steady_tap: str
) -> None:
    guest = ready(
        "-m", "384M", "-smp", "2", "-drive", tools.drive,
        "-device", "virtio-blk-pci,drive=tools,serial=guest-tools,bus=pcie.0,addr=0x4",
        "-netdev", f"tap,id=n,ifname={steady_tap}",
        "-device", "virtio-net-pci,netdev=n,bus=pcie.0,addr=0x6",
        board="q35",
    )  # fmt: skip
    tools.mount(guest)
    guest.command(f"ip link set eth0 up; ip addr add {STEADY_GUEST}/24 dev eth0")
    said = guest.command(f"chroot /tools iperf3 -c {STEADY_HOST} -u -b 0 -l 1400 -t 4")
    datagrams = re.search(r"\d+/(\d+) .*sender", said)
    assert datagrams is not None and int(datagrams[1]) > 2000, said
    interrupts = guest.command("grep output.0 /proc/interrupts").split()
    assert int(interrupts[1]) + int(interrupts[2]) > 100, "the vector of the transmit queue"


def test_a_disk_plugged_before_the_guest_runs_is_unplugged_under_its_own_load(
    boot: Boot, tmp_path: Path
) -> None:
    path, disk = tmp_path / "qmp", tmp_path / "disk"
    disk.write_bytes(bytes(8 * MIB))
    guest = boot(
        "-S", "-smp", "2", "-qmp", f"unix:{path},server,nowait",
        "-device", "pcie-root-port,id=p1,bus=pcie.0,addr=0x5,port=1",
        board="q35",
    )  # fmt: skip
    with QmpClient(path) as client:
        client.cmd("blockdev-add", **{"node-name": "node", "file": {"filename": str(disk)}})
        client.cmd("device_add", id="disk", driver="virtio-blk-pci", bus="p1", drive="node")
        client.cmd("cont")
        guest.expect("guest: ready in the initramfs")
        guest.expect("# ")
        wait_for(guest, "[ -e /sys/block/vda ]")
        guest.command(
            "(while [ -b /dev/vda ] && dd if=/dev/zero of=/dev/vda bs=64k count=64 conv=fsync "
            "2>/dev/null; do :; done; echo $? >/ended) & sleep 1"
        )
        client.cmd("device_del", id="disk")
        assert guest.command("cat /sys/block/vda/size").strip() == "16384", "it waits for the guest"
        assert client.wait_event("DEVICE_DELETED")["data"]["device"] == "disk"
        wait_for(guest, "[ ! -e /sys/block/vda -a -e /ended ]")
        client.cmd("blockdev-del", **{"node-name": "node"})


def test_a_guest_that_does_not_let_go_may_be_asked_again(
    ready: Boot, tmp_path: Path, root_image: Path
) -> None:
    path = tmp_path / "qmp"
    # pcie_ports=compat: nobody in the guest listens to the slot.
    guest = ready(
        "-qmp", f"unix:{path},server,nowait",
        "-device", "pcie-root-port,id=p1,bus=pcie.0,addr=0x5,port=1",
        "-drive", f"id=d,file={root_image},direct=off",
        "-device", "virtio-blk-pci,id=disk,drive=d,bus=p1,addr=0x0",
        board="q35", append="pcie_ports=compat",
    )  # fmt: skip
    with QmpClient(path) as client:
        client.cmd("device_del", id="disk")
        with pytest.raises(Exception, match="disk is in the process of being unplugged"):
            client.cmd("device_del", id="disk")
        assert guest.command("cat /sys/block/vda/size").strip() == "131072"
        # A reset takes it away for good, as it would on real hardware with the button pressed.
        client.cmd("system_reset")
        assert client.wait_event("DEVICE_DELETED")["data"]["device"] == "disk"
        guest.expect("guest: ready in the initramfs")
        guest.expect("# ")
        assert guest.command("ls /sys/block") == ""
