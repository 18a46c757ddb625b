"""What networks are used for, with both engines: VLANs, IPv6, large frames, taps that go down."""

import hashlib
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.conftest import Boot, Tools
from tests.guest.test_net import MakeTap, ip, make_tap, receive_from_guest, send_to_guest
from tests.machine_process import MachineProcess, wait_until

__all__ = ["make_tap"]

MIB = 1 << 20
PAIRS = 4
LARGE = 9000
ALL_PROTOCOLS = 3


class Card:
    """A card of the guest and the tap behind it; each has networks of its own."""

    def __init__(self, number: int, tap: str) -> None:
        self.tap, self.name = tap, f"eth{number}"
        self.host, self.guest = f"192.168.{90 + number}.1", f"192.168.{90 + number}.2"
        self.host6, self.guest6 = f"fd00:{90 + number}::1", f"fd00:{90 + number}::2"
        self.host_vlan, self.guest_vlan = f"10.{90 + number}.0.1", f"10.{90 + number}.0.2"

    def set_up_host(self) -> None:
        ip("addr", "flush", "dev", self.tap)
        ip("addr", "add", f"{self.host}/24", "dev", self.tap)
        ip("link", "set", self.tap, "mtu", str(LARGE))
        ip("-6", "addr", "add", f"{self.host6}/64", "dev", self.tap, "nodad")
        ip("link", "add", "link", self.tap, "name", f"{self.tap}.5", "type", "vlan", "id", "5")
        ip("addr", "add", f"{self.host_vlan}/24", "dev", f"{self.tap}.5")
        ip("link", "set", f"{self.tap}.5", "up")

    def set_up_guest(self, guest: MachineProcess) -> None:
        guest.command(
            f"ip link set {self.name} up; ip addr add {self.guest}/24 dev {self.name}; "
            f"ip -6 addr add {self.guest6}/64 dev {self.name}; "
            f"ip link add link {self.name} name {self.name}.5 type vlan id 5; "
            f"ip addr add {self.guest_vlan}/24 dev {self.name}.5; ip link set {self.name}.5 up"
        )


def pings(guest: MachineProcess, words: str) -> None:
    """All of three come back; duplicate address detection may hold up the first."""
    wait_until(
        lambda: ", 0% packet loss" in guest.command(f"ping -c 3 -i 0.2 -W 2 {words}; true"),
        f"ping {words}",
    )


def carrier(guest: MachineProcess, card: Card) -> str:
    return guest.command(f"cat /sys/class/net/{card.name}/carrier").strip()


def largest_frame(guest: MachineProcess, card: Card) -> int:
    """Bytes of the longest frame from the guest, which sends a long ping."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_PROTOCOLS)) as raw:
        raw.bind((card.tap, ALL_PROTOCOLS))
        raw.settimeout(1)
        pings(guest, f"-s {LARGE - 28} {card.host}")
        sizes = []
        try:
            while True:
                frame, address = raw.recvfrom(1 << 16)
                if address[2] != socket.PACKET_OUTGOING:
                    sizes.append(len(frame))
        except TimeoutError:
            return max(sizes)


def test_cards_of_four_pairs_on_pci_take_what_networks_use(
    boot: Boot, make_tap: MakeTap, tools: type[Tools]
) -> None:
    cards = [Card(number, make_tap("multi_queue")) for number in range(2)]
    argv = []
    for number, (card, vhost) in enumerate(zip(cards, ("off", "on"), strict=True)):
        card.set_up_host()
        argv += ["-netdev", f"tap,id=n{number},ifname={card.tap},queues={PAIRS},vhost={vhost}"]
        place = f"bus=pcie.0,addr={number + 2},vectors={2 * PAIRS + 2},queue-size=1024"
        argv += ["-device", f"virtio-net-pci,netdev=n{number},mq=on,{place}"]
    disk = ("-drive", tools.drive, "-device",
            "virtio-blk-pci,drive=tools,serial=guest-tools,bus=pcie.0,addr=1")  # fmt: skip
    guest = boot("-smp", str(PAIRS), "-m", "512", *argv, *disk, board="q35")
    guest.expect("guest: ready in the initramfs")
    guest.expect("# ")
    tools.mount(guest)
    for card in cards:
        card.set_up_guest(guest)
        queues = guest.command(f"ls /sys/class/net/{card.name}/queues").split()
        assert len(queues) == 2 * PAIRS
        rings = guest.command(f"chroot /tools ethtool -g {card.name}")
        assert re.findall(r"RX:\s+(\d+)", rings) == ["1024", "1024"]
        for target in (card.host, f"-6 {card.host6}", card.host_vlan):
            pings(guest, target)
        # One frame, and no fragments.
        assert largest_frame(guest, card) < 2000
        guest.command(f"ip link set {card.name} mtu {LARGE}")
        assert largest_frame(guest, card) >= LARGE
        for switch in ("off", "on"):
            features = " ".join(f"{name} {switch}" for name in ("tx", "tso", "gso", "gro"))
            guest.command(f"chroot /tools ethtool -K {card.name} {features}")
            content = os.urandom(2 * MIB)
            digest = hashlib.md5(content).hexdigest()
            assert send_to_guest(guest, content, card.host) == digest
            theirs, ours = receive_from_guest(guest, 2, card.host)
            assert theirs == ours
        assert carrier(guest, card) == "1"
        ip("link", "set", card.tap, "down")
        guest.command(f"ping -c 2 -W 1 {card.host}; true")
        ip("link", "set", card.tap, "up")
        wait_until(lambda card=card: carrier(guest, card) == "1", "the link is up again")  # type: ignore[misc]
        pings(guest, card.host)
    assert guest.errors.count(b"error") == 0, guest.errors
    guest.type("poweroff -f\n")
    assert guest.wait() == 0


@pytest.fixture
def macvtap() -> Iterator[str]:
    """A macvtap at one end of a cable, whose other end is the host's."""
    ip("link", "add", "cable0", "type", "veth", "peer", "name", "cable1")
    ip("addr", "add", "192.168.95.1/24", "dev", "cable1")
    ip("link", "add", "link", "cable0", "name", "macvtap0", "type", "macvtap", "mode", "bridge")
    for name in ("cable0", "cable1", "macvtap0"):
        ip("link", "set", name, "up")
    yield "macvtap0"
    subprocess.run(["ip", "link", "del", "cable0"], check=False)


def test_a_macvtap_handed_over_by_descriptor(boot: Boot, macvtap: str) -> None:
    sysfs = Path(f"/sys/class/net/{macvtap}")
    mac = (sysfs / "address").read_text().strip()
    fd = os.open(f"/dev/tap{(sysfs / 'ifindex').read_text().strip()}", os.O_RDWR)
    os.set_inheritable(fd, True)
    guest = boot(
        "-netdev", f"tap,id=n0,fd={fd}", "-device", f"virtio-net-device,netdev=n0,mac={mac}",
        pass_fds=(fd,),
    )  # fmt: skip
    os.close(fd)
    guest.expect("guest: ready in the initramfs")
    guest.expect("# ")
    guest.command("ip link set lo up; ip link set eth0 up; ip addr add 192.168.95.2/24 dev eth0")
    pings(guest, "192.168.95.1")
    content = os.urandom(4 * MIB)
    assert send_to_guest(guest, content, "192.168.95.1") == hashlib.md5(content).hexdigest()
    theirs, ours = receive_from_guest(guest, 4, "192.168.95.1")
    assert theirs == ours
