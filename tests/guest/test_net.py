"""virtio-net under Linux's own driver, over a tap of the lab: our engine and the kernel's vhost."""

import hashlib
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.guest.conftest import Boot, Tools
from tests.guest.logged_frames import check_that_it_logs
from tests.machine_process import PATIENCE, MachineProcess, QmpClient

READY = "guest: ready in the initramfs"
HOST, GUEST = "192.168.77.1", "192.168.77.2"
MAC = "12:34:56:78:9a:bc"
MIB = 1 << 20


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


MakeTap = Callable[..., str]


@pytest.fixture
def make_tap() -> Iterator[MakeTap]:
    """Make a tap with the host's address; gone after the test."""
    made: list[str] = []

    def make(*mode: str) -> str:
        name = f"tap{len(made)}"
        ip("tuntap", "add", name, "mode", "tap", *mode)
        made.append(name)
        ip("addr", "add", f"{HOST}/24", "dev", name)
        ip("link", "set", name, "up")
        return name

    yield make
    for name in made:
        subprocess.run(["ip", "link", "del", name], capture_output=True, check=False)


def ready(guest: MachineProcess) -> MachineProcess:
    guest.expect(READY)
    guest.expect("# ")
    guest.command(f"ip link set lo up; ip addr add {GUEST}/24 dev eth0; ip link set eth0 up")
    return guest


def card(tap: str, vhost: str, *more: str) -> list[str]:
    return [
        "-netdev", f"tap,id=n0,ifname={tap},vhost={vhost}{''.join(more)}",
        "-device", f"virtio-net-device,netdev=n0,id=net0,mac={MAC.upper()}",
    ]  # fmt: skip


def send_to_guest(guest: MachineProcess, content: bytes, host: str = HOST) -> str:
    """The guest fetches `content` from the host; the digest it saw."""
    with socket.create_server((host, 0)) as server:
        port = server.getsockname()[1]

        def serve() -> None:
            peer, _ = server.accept()
            with peer:
                peer.sendall(content)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        digest = guest.command(f"nc {host} {port} </dev/null | md5sum").split()[0]
        thread.join(PATIENCE)
        return digest


def receive_from_guest(guest: MachineProcess, mebibytes: int, host: str = HOST) -> tuple[str, str]:
    """The guest sends its own random bytes; the digests that it and the host saw."""
    digest = hashlib.md5()
    with socket.create_server((host, 0)) as server:
        server.settimeout(PATIENCE)
        port = server.getsockname()[1]

        def serve() -> None:
            peer, _ = server.accept()
            with peer:
                while part := peer.recv(1 << 16):
                    digest.update(part)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        guest.command(f"dd if=/dev/urandom of=/file bs=1M count={mebibytes} 2>/dev/null")
        guest.command(f"nc {host} {port} </file; true")
        thread.join(PATIENCE)
    return guest.command("md5sum /file").split()[0], digest.hexdigest()


@pytest.mark.parametrize("vhost", ["off", "on"])
def test_packets_flow_both_ways_unharmed(
    boot: Boot, make_tap: MakeTap, tmp_path: Path, vhost: str
) -> None:
    tap, path = make_tap(), tmp_path / "qmp"
    qmp = ("-qmp", f"unix:{path},server,nowait")
    guest = ready(boot("-smp", "2", *card(tap, vhost), *qmp, board="microvm,mem-share=on"))
    assert MAC in guest.command("cat /sys/class/net/eth0/address")
    assert guest.command("cat /sys/class/net/eth0/carrier").strip() == "1"
    assert ", 0% packet loss" in guest.command(f"ping -c 5 -i 0.2 {HOST}")
    # Larger than any packet of the wire: fragments in both directions.
    assert ", 0% packet loss" in guest.command(f"ping -c 3 -i 0.2 -s 20000 {HOST}")
    with QmpClient(path) as client:
        check_that_it_logs(guest, client, tap, MAC)
    assert ", 0% packet loss" in guest.command(f"ping -c 2 -i 0.2 {HOST}")
    content = os.urandom(24 * MIB)
    assert send_to_guest(guest, content) == hashlib.md5(content).hexdigest()
    theirs, ours = receive_from_guest(guest, 24)
    assert theirs == ours
    guest.type("poweroff -f\n")
    assert guest.wait() == 0


@pytest.mark.parametrize("vhost", ["off", "on"])
def test_several_queue_pairs_come_up(boot: Boot, make_tap: MakeTap, vhost: str) -> None:
    tap = make_tap("multi_queue")
    guest = boot(
        "-smp", "4", "-netdev", f"tap,id=n0,ifname={tap},queues=4,vhost={vhost}",
        "-device", "virtio-net-device,netdev=n0,mq=on",
    )  # fmt: skip
    ready(guest)
    queues = guest.command("ls /sys/class/net/eth0/queues").split()
    assert sorted(queues) == [f"{way}-{index}" for way in ("rx", "tx") for index in range(4)]
    assert ", 0% packet loss" in guest.command(f"ping -c 5 -i 0.2 {HOST}")
    content = os.urandom(8 * MIB)
    assert send_to_guest(guest, content) == hashlib.md5(content).hexdigest()


@pytest.mark.parametrize("vhost", ["off", "on"])
def test_the_driver_leaves_and_comes_back_and_a_pause_loses_nothing(
    boot: Boot, make_tap: MakeTap, tmp_path: Path, vhost: str
) -> None:
    path = tmp_path / "qmp"
    guest = ready(boot(*card(make_tap(), vhost), "-qmp", f"unix:{path},server,nowait"))
    driver = "/sys/bus/virtio/drivers/virtio_net"
    for _ in range(3):
        guest.command(
            "n=$(basename $(readlink -f /sys/class/net/eth0/device)); "
            f"echo $n >{driver}/unbind; echo $n >{driver}/bind"
        )
    guest.command(f"ip addr add {GUEST}/24 dev eth0; ip link set eth0 up")
    guest.command(f"ping -c 1 {HOST}")
    with QmpClient(path) as client:
        guest.type(f"ping -c 20 -i 0.2 {HOST}\n")
        for _ in range(3):
            time.sleep(0.5)
            client.cmd("stop")
            time.sleep(0.5)
            client.cmd("cont")
        guest.expect("20 packets transmitted, 20 packets received")
        client.cmd("system_reset")
        ready(guest)
        assert ", 0% packet loss" in guest.command(f"ping -c 3 -i 0.2 {HOST}")


def test_the_guests_filters_hold(boot: Boot, make_tap: MakeTap) -> None:
    tap = make_tap()
    guest = ready(boot(*card(tap, "off")))
    guest.command(f"ping -c 1 {HOST}")

    def received() -> int:
        return int(guest.command("cat /sys/class/net/eth0/statistics/rx_packets"))

    def send(destination: bytes, count: int) -> int:
        before = received()
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind((tap, 0))
            frame = destination + b"\x02\0\0\0\0\1" + b"\x88\xb5" + bytes(60)
            for _ in range(count):
                raw.send(frame)
        time.sleep(0.5)
        return received() - before

    own = bytes.fromhex("123456789abc")
    stranger = bytes.fromhex("020000000099")
    assert send(own, 50) >= 50
    assert send(stranger, 50) < 10
    guest.command("ip link set eth0 promisc on")
    assert send(stranger, 50) >= 50
    guest.command("ip link set eth0 promisc off; ip link set eth0 address 02:00:00:00:00:99")
    assert send(stranger, 50) >= 50
    assert send(own, 50) < 10


def test_a_tap_deleted_under_the_guest_takes_the_link_down(
    boot: Boot, make_tap: MakeTap, tmp_path: Path
) -> None:
    tap, path = make_tap(), tmp_path / "qmp"
    guest = ready(boot(*card(tap, "off"), "-qmp", f"unix:{path},server,nowait"))
    assert ", 0% packet loss" in guest.command(f"ping -c 2 {HOST}")
    ip("link", "del", tap)
    guest.command(f"ping -c 2 -W 1 {HOST}; sleep 1")
    assert guest.command("cat /sys/class/net/eth0/carrier").strip() == "0"
    assert "the tap was deleted; the link is down" in guest.errors.decode()
    # Whatever a driver does with such a card is answered, and the machine lives.
    driver = "/sys/bus/virtio/drivers/virtio_net"
    guest.command(
        "ip link set eth0 down; ip link set eth0 promisc on; ip link set eth0 up; "
        "n=$(basename $(readlink -f /sys/class/net/eth0/device)); "
        f"echo $n >{driver}/unbind; echo $n >{driver}/bind; ip link set eth0 up"
    )
    with QmpClient(path) as client:
        client.cmd("system_reset")
        ready(guest)
    assert guest.command("cat /sys/class/net/eth0/carrier").strip() == "0"
    assert guest.errors.count(b"error") == 0, guest.errors
    guest.type("poweroff -f\n")
    assert guest.wait() == 0


def test_a_tap_handed_over_by_descriptor(boot: Boot, make_tap: MakeTap) -> None:
    from stratovirt._native import tap as native

    tap = make_tap()
    fd = os.open("/dev/net/tun", os.O_RDWR)
    native.attach(fd, tap, False)
    os.set_inheritable(fd, True)
    guest = boot(
        "-netdev", f"tap,id=n0,fd={fd}", "-device", "virtio-net-device,netdev=n0",
        pass_fds=(fd,),
    )  # fmt: skip
    os.close(fd)
    ready(guest)
    assert ", 0% packet loss" in guest.command(f"ping -c 3 -i 0.2 {HOST}")
    assert re.match("52:54:00:", guest.command("cat /sys/class/net/eth0/address"))


@pytest.mark.parametrize("place", ["netdev", "device"])
def test_vhost_by_descriptor(boot: Boot, make_tap: MakeTap, place: str) -> None:
    tap = make_tap("multi_queue")
    fds = [os.open("/dev/vhost-net", os.O_RDWR) for _ in range(2)]
    for fd in fds:
        os.set_inheritable(fd, True)
    words = f"vhost=on,vhostfds={fds[0]}:{fds[1]}"
    guest = boot(
        "-smp", "2",
        "-netdev", f"tap,id=n0,ifname={tap},queues=2{',' + words if place == 'netdev' else ''}",
        "-device", f"virtio-net-device,netdev=n0,mq=on{',' + words if place == 'device' else ''}",
        pass_fds=tuple(fds),
    )  # fmt: skip
    for fd in fds:
        os.close(fd)
    ready(guest)
    # The kernel's worker threads carry the name of their owner.
    names = {path.read_text().strip() for path in Path("/proc").glob("[0-9]*/comm")}
    assert f"vhost-{guest.process.pid}" in names
    assert ", 0% packet loss" in guest.command(f"ping -c 5 -i 0.2 {HOST}")


def test_a_tap_in_use_or_of_the_wrong_kind_is_a_mistake(boot: Boot, make_tap: MakeTap) -> None:
    single = make_tap()
    for options, complaint in (
        (f"ifname={single},queues=2", "it was made without multi_queue"),
        ("fd=99", "no such file descriptor is open"),
    ):
        guest = boot("-netdev", f"tap,id=n0,{options}", "-device", "virtio-net-device,netdev=n0")
        assert guest.wait() == 1
        assert complaint in guest.errors.decode()
        assert len(guest.errors.splitlines()) == 1


def test_a_card_and_a_disk_on_one_iothread(
    boot: Boot, make_tap: MakeTap, root_image: Path, tmp_path: Path
) -> None:
    path = tmp_path / "qmp"
    guest = ready(
        boot(
            "-object", "iothread,id=io", "-qmp", f"unix:{path},server,nowait",
            "-netdev", f"tap,id=n0,ifname={make_tap()}",
            "-device", "virtio-net-device,netdev=n0,iothread=io",
            "-drive", f"id=d,file={root_image},direct=off",
            "-device", "virtio-blk-device,drive=d,iothread=io",
        )
    )  # fmt: skip
    with QmpClient(path) as client:
        (thread,) = client.cmd("query-iothreads")
        stat = Path(f"/proc/{guest.process.pid}/task/{thread['thread-id']}/stat")
        before = int(stat.read_text().rpartition(") ")[2].split()[12])
        guest.type("dd if=/dev/vda of=/dev/null bs=4k 2>/dev/null &\n")
        content = os.urandom(8 * MIB)
        assert send_to_guest(guest, content) == hashlib.md5(content).hexdigest()
        digest = hashlib.md5(root_image.read_bytes()).hexdigest()
        assert guest.command("wait; md5sum /dev/vda").split()[0] == digest
        assert int(stat.read_text().rpartition(") ")[2].split()[12]) > before


def test_sixteen_queue_pairs_are_offered_and_used(
    boot: Boot, make_tap: MakeTap, tools: type[Tools]
) -> None:
    tap = make_tap("multi_queue")
    guest = ready(
        boot(
            "-smp", "4", *tools.options, "-netdev", f"tap,id=n0,ifname={tap},queues=16",
            "-device", "virtio-net-device,netdev=n0,mq=on",
        )
    )  # fmt: skip
    tools.mount(guest)
    assert re.findall(r"Combined:\s+(\d+)", guest.command("chroot /tools ethtool -l eth0")) == [
        "16", "4",
    ]  # fmt: skip
    guest.command("chroot /tools ethtool -L eth0 combined 16")
    assert (
        "Combined:\t16" in guest.command("chroot /tools ethtool -l eth0").rpartition("Current")[2]
    )
    assert ", 0% packet loss" in guest.command(f"ping -c 5 -i 0.2 {HOST}")
    content = os.urandom(4 * MIB)
    assert send_to_guest(guest, content) == hashlib.md5(content).hexdigest()
    guest.command("chroot /tools ethtool -L eth0 combined 2")
    assert ", 0% packet loss" in guest.command(f"ping -c 3 -i 0.2 {HOST}")


def test_the_guest_announces_itself_when_asked(
    boot: Boot, make_tap: MakeTap, tmp_path: Path
) -> None:
    path, tap = tmp_path / "qmp", make_tap()
    guest = ready(boot(*card(tap, "off"), "-qmp", f"unix:{path},server,nowait"))
    guest.command(f"ping -c 1 {HOST}")
    with (
        QmpClient(path) as client,
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)) as arp,
    ):
        arp.bind((tap, 0x0806))
        arp.settimeout(PATIENCE)
        client.cmd("announce-self")
        # A gratuitous ARP: the guest's own address is both sender's and target's.
        own = socket.inet_aton(GUEST)
        while (frame := arp.recv(2048))[28:32] != own or frame[38:42] != own:
            continue
    assert ", 0% packet loss" in guest.command(f"ping -c 2 -i 0.2 {HOST}")
