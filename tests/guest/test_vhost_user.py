"""vhost-user-net with a real back end, DPDK's testpmd, between a guest and a veth of the lab."""

import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.conftest import Boot, Tools
from tests.guest.test_net import GUEST, HOST, ip, send_to_guest
from tests.machine_process import MachineProcess, QmpClient, wait_until

MIB = 1 << 20


@pytest.fixture
def veth() -> Iterator[str]:
    """A cable: one end has the lab's address, the other is the back end's."""
    ip("link", "add", "veth0", "type", "veth", "peer", "name", "veth1")
    ip("addr", "add", f"{HOST}/24", "dev", "veth0")
    for name in ("veth0", "veth1"):
        ip("link", "set", name, "up")
        # The back end sees frames as they are, so they must be whole.
        subprocess.run(["ethtool", "-K", name, "tx", "off", "gso", "off", "tso", "off"],
                       check=True, capture_output=True)  # fmt: skip
    yield "veth1"
    ip("link", "del", "veth0")


class Testpmd:
    """The back end, which can be killed and started again."""

    __test__ = False

    def __init__(self, path: Path, interface: str, log: Path) -> None:
        self._path, self._log = path, log
        self._argv = [
            "dpdk-testpmd", "-l", "0-1", "--no-huge", "-m", "256", "--no-pci", "--no-telemetry",
            f"--vdev=net_vhost0,iface={path},queues=1",
            f"--vdev=net_af_packet0,iface={interface}",
            "--", "--forward-mode=io", "--auto-start", "--total-num-mbufs=4096",
        ]  # fmt: skip
        self.start()

    def start(self) -> None:
        """Run until it listens."""
        self._path.unlink(missing_ok=True)
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._argv, stdin=subprocess.PIPE, stdout=log, stderr=log
            )
        wait_until(self._path.exists, f"testpmd listens: {self._log.read_text()[-2000:]}")

    def kill(self) -> None:
        """As a crash would."""
        self.process.kill()
        self.process.wait()


@pytest.fixture
def back_end(veth: str, tmp_path: Path) -> Iterator[Testpmd]:
    testpmd = Testpmd(tmp_path / "vhost.sock", veth, tmp_path / "testpmd.log")
    yield testpmd
    testpmd.kill()
    print((tmp_path / "testpmd.log").read_text()[-3000:])


def carrier(guest: MachineProcess, level: int) -> None:
    guest.command(f"while [ $(cat /sys/class/net/eth0/carrier) != {level} ]; do sleep 0.2; done")


def answered(guest: MachineProcess) -> None:
    """The back end, which takes up a queue some time after the guest's driver, forwards."""
    guest.command(f"until ping -c 1 -W 1 {HOST}; do :; done")


def test_a_guest_talks_through_a_back_end_that_comes_and_goes(
    ready: Boot, tools: type[Tools], back_end: Testpmd, tmp_path: Path
) -> None:
    guest = ready(
        "-machine", "q35,mem-share=on", "-m", "384M",
        "-drive", tools.drive,
        "-device", "virtio-blk-pci,drive=tools,serial=guest-tools,bus=pcie.0,addr=0x4",
        "-chardev", f"socket,id=c,path={tmp_path}/vhost.sock,reconnect=1",
        "-netdev", "vhost-user,id=n,chardev=c",
        "-device", "virtio-net-pci,netdev=n,id=net0,mac=12:34:56:78:9A:BC,bus=pci.0,addr=0x2.0x0",
        board="",
    )  # fmt: skip
    tools.mount(guest)
    guest.command(f"ip addr add {GUEST}/24 dev eth0; ip link set eth0 up")
    guest.command("chroot /tools ethtool -K eth0 tx off")
    answered(guest)
    assert ", 0% packet loss" in guest.command(f"ping -c 5 -i 0.2 {HOST}")
    with subprocess.Popen(["iperf3", "-s", "-1"], stdout=subprocess.DEVNULL) as server:
        assert "receiver" in guest.command(f"chroot /tools iperf3 -c {HOST} -t 3")
        server.wait()
    for _ in range(2):
        back_end.kill()
        carrier(guest, 0)
        back_end.start()
        carrier(guest, 1)
        answered(guest)
        assert ", 0% packet loss" in guest.command(f"ping -c 5 -i 0.3 {HOST}")
        content = os.urandom(MIB)
        assert send_to_guest(guest, content) == hashlib.md5(content).hexdigest()


def test_a_card_on_a_back_end_is_plugged_and_unplugged(
    ready: Boot, back_end: Testpmd, tmp_path: Path
) -> None:
    guest = ready(
        "-machine", "q35,mem-share=on", "-m", "384M",
        "-device", "pcie-root-port,port=0x1,addr=0x3,bus=pcie.0,id=port1",
        "-chardev", f"socket,id=c,path={tmp_path}/vhost.sock",
        "-netdev", "vhost-user,id=n,chardev=c",
        "-device", "virtio-net-pci,netdev=n,id=d,bus=port1,addr=0x0",
        "-qmp", f"unix:{tmp_path}/qmp,server,nowait", board="",
    )  # fmt: skip
    address = {"type": "unix", "data": {"path": f"{tmp_path}/vhost.sock"}}
    with QmpClient(tmp_path / "qmp") as client:
        for turn in range(2):
            if turn:
                data = {"addr": address, "server": False}
                client.cmd("chardev-add", id="c", backend={"type": "socket", "data": data})
                client.cmd("netdev_add", type="vhost-user", id="n", chardev="c")
                client.cmd("device_add", driver="virtio-net-pci", id="d", netdev="n", bus="port1")
            guest.command("while [ ! -e /sys/class/net/eth0 ]; do sleep 0.2; done")
            guest.command(f"ip addr add {GUEST}/24 dev eth0; ip link set eth0 up")
            answered(guest)
            assert ", 0% packet loss" in guest.command(f"ping -c 5 -i 0.3 {HOST}")
            client.cmd("device_del", id="d")
            assert client.wait_event("DEVICE_DELETED")["data"]["device"] == "d"
            assert guest.command("ls /sys/class/net").split() == ["lo"]
            client.cmd("netdev_del", id="n")
            client.cmd("chardev-remove", id="c")
    assert b"the back end" not in guest.errors
