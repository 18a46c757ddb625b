"""A PCI card of the lab's host in the guest: VFIO with an IOMMU, from the start and hotplugged."""

import hashlib
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.conftest import Boot, Tools
from tests.guest.test_net import GUEST, HOST, ip, send_to_guest
from tests.machine_process import PATIENCE, MachineProcess, QmpClient

MIB = 1 << 20
PCI = Path("/sys/bus/pci")
OURS, GUESTS = "52:54:00:0c:a8:d0", "52:54:00:0c:a8:d1"


def interface(mac: str) -> str:
    for path in Path("/sys/class/net").iterdir():
        if (path / "address").read_text().strip() == mac:
            return path.name
    raise AssertionError(f"the lab has no card {mac}")


def bind(address: str, driver: str) -> None:
    device = PCI / "devices" / address
    if (device / "driver").exists():
        (device / "driver" / "unbind").write_text(address)
    (device / "driver_override").write_text(driver)
    (PCI / "drivers_probe").write_text(address)
    assert (device / "driver").resolve().name == driver


@pytest.fixture
def card() -> Iterator[str]:
    """The address of a card that vfio-pci has; its cable's other end is the lab's."""
    # The emulated IOMMU does not remap interrupts.
    Path("/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts").write_text("Y")
    ours = interface(OURS)
    ip("addr", "add", f"{HOST}/24", "dev", ours)
    ip("link", "set", ours, "up")
    virtio = Path("/sys/class/net", interface(GUESTS), "device").resolve()
    address = virtio.parent.name
    bind(address, "vfio-pci")
    yield address
    bind(address, "virtio-pci")
    ip("addr", "del", f"{HOST}/24", "dev", ours)


def use(guest: MachineProcess) -> None:
    """The guest's card carries what it should, and its interrupts are the device's own."""
    assert guest.command("cat /sys/class/net/eth0/address").strip() == GUESTS
    guest.command(f"ip addr add {GUEST}/24 dev eth0; ip link set eth0 up; sleep 1")
    assert ", 0% packet loss" in guest.command(f"ping -c 5 -i 0.3 {HOST}")
    content = os.urandom(4 * MIB)
    assert send_to_guest(guest, content) == hashlib.md5(content).hexdigest()


def interrupts(guest: MachineProcess) -> int:
    lines = guest.command("grep input /proc/interrupts").splitlines()
    return sum(int(word) for word in lines[-1].split()[1:2])


def test_a_card_of_the_host_works_in_the_guest(card: str, ready: Boot, tools: type[Tools]) -> None:
    guest = ready(
        "-m", "384M", "-drive", tools.drive,
        "-device", "virtio-blk-pci,drive=tools,serial=guest-tools,bus=pcie.0,addr=0x4",
        "-device", f"vfio-pci,host={card},id=net,bus=pcie.0,addr=0x03.0x0",
        board="q35",
    )  # fmt: skip
    tools.mount(guest)
    use(guest)
    with subprocess.Popen(["iperf3", "-s", "-1"], stdout=subprocess.DEVNULL) as server:
        before = interrupts(guest)
        assert "receiver" in guest.command(f"chroot /tools iperf3 -c {HOST} -t 3")
        server.wait()
    assert interrupts(guest) > before
    # They come by irqfd: the process, idle in its loop, sees none of them.
    text = Path(f"/proc/{guest.process.pid}/task/{guest.process.pid}/stat").read_text()
    print("main thread", text.rpartition(")")[2].split()[11:13])
    guest.type("poweroff -f\n")
    assert guest.wait() == 0


def test_a_card_comes_goes_and_is_the_hosts_again(card: str, ready: Boot, tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    guest = ready(
        "-m", "384M", "-qmp", f"unix:{path},server,nowait",
        "-device", "pcie-root-port,id=p1,bus=pcie.0,addr=0x5,port=1",
        board="q35",
    )  # fmt: skip
    with QmpClient(path) as client:
        for _ in range(2):
            client.cmd("device_add", id="card", driver="vfio-pci", bus="p1", host=card)
            guest.command("while [ ! -e /sys/class/net/eth0 ]; do sleep 0.2; done")
            use(guest)
            client.cmd("device_del", id="card")
            assert client.wait_event("DEVICE_DELETED")["data"]["device"] == "card"
            guest.command("while [ -e /sys/class/net/eth0 ]; do sleep 0.2; done")
            # The host's own driver finds it as it was.
            bind(card, "virtio-pci")
            assert interface(GUESTS)
            bind(card, "vfio-pci")
        client.cmd("device_add", id="card", driver="vfio-pci", bus="p1", host=card)
        guest.command("while [ ! -e /sys/class/net/eth0 ]; do sleep 0.2; done")
        # The host takes it away under the guest: it is unplugged, and only then gone.
        removal = threading.Thread(
            target=lambda: (PCI / "devices" / card / "remove").write_text("1"), daemon=True
        )
        removal.start()
        assert client.wait_event("DEVICE_DELETED")["data"]["device"] == "card"
        guest.command("while [ -e /sys/class/net/eth0 ]; do sleep 0.2; done")
        removal.join(PATIENCE)
        assert not (PCI / "devices" / card).exists()
        (PCI / "rescan").write_text("1")
        client.cmd("quit")
    assert guest.wait() == 0
