"""The small virtio devices under Linux's own drivers: entropy, balloon, consoles, vsock."""

import contextlib
import hashlib
import os
import random
import re
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from stratovirt.chardev.backend import OUTPUT_LIMIT
from tests.guest.conftest import Boot
from tests.machine_process import PATIENCE, MachineProcess, QmpClient, wait_until

MIB = 1 << 20


def resident_mib(guest: MachineProcess) -> int:
    status = Path(f"/proc/{guest.process.pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) >> 10


def test_the_guest_gets_random_bytes(ready: Callable[..., MachineProcess]) -> None:
    guest = ready("-object", "rng-random,id=r", "-device", "virtio-rng-device,rng=r")
    assert "virtio_rng" in guest.command("cat /sys/class/misc/hw_random/rng_current")
    first, second = (
        guest.command("dd if=/dev/hwrng bs=64 count=8 2>/dev/null | md5sum") for _ in range(2)
    )
    assert first != second
    # Random bytes do not get shorter by packing.
    packed = guest.command("dd if=/dev/hwrng bs=64 count=64 2>/dev/null | gzip | wc -c")
    assert int(packed) > 4000
    guest.type("poweroff -f\n")
    assert guest.wait() == 0


def test_the_rate_of_random_bytes_is_held(ready: Callable[..., MachineProcess]) -> None:
    guest = ready(
        "-object", "rng-random,id=r,filename=/dev/urandom",
        "-device", "virtio-rng-device,rng=r,max-bytes=2000,period=1000,id=rng0",
    )  # fmt: skip
    # By the guest's clock and in one command: the console has delays of its own, in which the
    # device saves up what may flow at once.
    started, ended = guest.command(
        "dd if=/dev/hwrng of=/dev/null bs=64 count=60 2>/dev/null; "
        "read a x </proc/uptime; dd if=/dev/hwrng of=/dev/null bs=64 count=350 2>/dev/null; "
        "read b x </proc/uptime; echo $a $b"
    ).split()
    rate = 64 * 350 / (float(ended) - float(started))
    assert 0.95 * 2000 < rate < 1.05 * 2000


def await_actual(client: QmpClient, size_bytes: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while client.cmd("query-balloon")["actual"] != size_bytes:
        assert time.monotonic() < deadline, client.cmd("query-balloon")
        time.sleep(0.2)


def test_the_balloon_moves_memory_between_guest_and_host(
    ready: Callable[..., MachineProcess], tmp_path: Path
) -> None:
    path = tmp_path / "qmp"
    guest = ready(
        "-m", "768", "-device", "virtio-balloon-device,deflate-on-oom=true,id=b",
        "-qmp", f"unix:{path},server,nowait",
    )  # fmt: skip
    guest.command("mkdir -p /big; mount -t tmpfs -o size=700m tmpfs /big")
    fill = "dd if=/dev/zero of=/big/file bs=1M count=512 2>/dev/null; rm /big/file"
    guest.command(fill)
    full = resident_mib(guest)
    assert full > 512
    with QmpClient(path) as client:
        assert client.cmd("query-balloon") == {"actual": 768 * MIB}
        client.cmd("balloon", value=256 * MIB)
        await_actual(client, 256 * MIB)
        assert client.wait_event("BALLOON_CHANGED")["data"]["actual"] < 768 * MIB
        given = full - resident_mib(guest)
        assert abs(given - 512) < 0.1 * 512, given
        assert "MemTotal" in guest.command("cat /proc/meminfo")
        free_kib = int(guest.command("grep MemFree /proc/meminfo").split()[1])
        assert free_kib < 256 << 10
        client.cmd("qom-get", path="/machine/peripheral/b", property="guest-stats")
        time.sleep(1)
        answer = client.cmd("qom-get", path="/machine/peripheral/b", property="guest-stats")
        assert answer["stats"]["stat-free-memory"] < 256 * MIB
        client.cmd("balloon", value=768 * MIB)
        await_actual(client, 768 * MIB)
    guest.command(fill)
    assert abs(resident_mib(guest) - full) < 0.1 * full
    guest.type("poweroff -f\n")
    assert guest.wait() == 0


def test_what_the_guest_frees_is_the_hosts_again(ready: Callable[..., MachineProcess]) -> None:
    guest = ready("-m", "768", "-device", "virtio-balloon-device,free-page-reporting=on")
    guest.command("mkdir -p /big; mount -t tmpfs -o size=600m tmpfs /big")
    guest.command("dd if=/dev/urandom of=/big/kept bs=1M count=16 2>/dev/null")
    digest = guest.command("md5sum /big/kept")
    for _ in range(2):
        guest.command("dd if=/dev/zero of=/big/file bs=1M count=400 2>/dev/null")
        full = resident_mib(guest)
        assert full > 400
        guest.command("rm /big/file")
        # Linux reports blocks of 2 MiB, some every two seconds.
        wait_until(lambda full=full: resident_mib(guest) < full - 300, "the host has it back")  # type: ignore[misc]
        assert guest.command("md5sum /big/kept") == digest
    guest.type("poweroff -f\n")
    assert guest.wait() == 0


def test_eight_consoles_at_once(ready: Callable[..., MachineProcess], tmp_path: Path) -> None:
    argv: list[str] = ["-device", "virtio-serial-device,id=virtio-serial0"]
    for number in range(8):
        path = tmp_path / f"hvc{number}"
        argv += ["-chardev", f"socket,path={path},id=c{number},server,nowait"]
        argv += ["-device", f"virtconsole,chardev=c{number},id=console{number}"]
    guest = ready(*argv)
    guest.command(
        # In one shell: a console that nobody has open forgets that it is raw.
        "for i in 0 1 2 3 4 5 6 7; do (stty raw -echo; cat) </dev/hvc$i >/dev/hvc$i & done"
    )
    contents = [bytes(random.Random(n).choices(range(256), k=4_000)) for n in range(8)]
    answers = [b""] * 8

    def talk(number: int) -> None:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(PATIENCE)
            peer.connect(str(tmp_path / f"hvc{number}"))
            sender = threading.Thread(target=peer.sendall, args=(contents[number],))
            sender.start()
            while len(answers[number]) < len(contents[number]):
                part = peer.recv(65536)
                assert part, "the machine has hung up"
                answers[number] += part
            sender.join()

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert [hashlib.md5(a).digest() for a in answers] == [hashlib.md5(c).digest() for c in contents]
    assert guest.command("ls /sys/class/virtio-ports | wc -l").strip() == "8"
    names = guest.command("cat /sys/class/virtio-ports/*/name").split()
    assert names == [f"console{number}" for number in range(8)]
    guest.type("poweroff -f\n")
    assert guest.wait() == 0


@contextlib.contextmanager
def one_console(
    ready: Callable[..., MachineProcess], folder: Path
) -> Iterator[tuple[MachineProcess, socket.socket]]:
    """A guest with hvc0, and who is at the other end of it."""
    path = folder / "hvc"
    guest = ready(
        "-device", "virtio-serial-device", "-chardev", f"socket,path={path},id=c,server,nowait",
        "-device", "virtconsole,chardev=c",
    )  # fmt: skip
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(PATIENCE)
        peer.connect(str(path))
        yield guest, peer


def test_a_mebibyte_goes_through_a_console_and_back_unharmed(
    ready: Callable[..., MachineProcess], tmp_path: Path
) -> None:
    content = random.Random(0).randbytes(MIB)
    digest = hashlib.md5(content).hexdigest()
    with one_console(ready, tmp_path) as (guest, peer):
        guest.command("exec 3<>/dev/hvc0; stty raw -echo <&3")
        sender = threading.Thread(target=peer.sendall, args=(content,), daemon=True)
        sender.start()
        guest.command(f"head -c {MIB} <&3 >/tmp/sent", 3 * PATIENCE)
        assert guest.command("md5sum /tmp/sent").split()[0] == digest
        # Linux hands over sixteen bytes at a time.
        guest.type("cat /tmp/sent >&3\n")
        returned = b""
        while len(returned) < MIB:
            part = peer.recv(65536)
            assert part, "the machine has hung up"
            returned += part
        assert hashlib.md5(returned).hexdigest() == digest


def test_a_console_whose_peer_does_not_read_holds_up_only_itself(
    ready: Callable[..., MachineProcess], tmp_path: Path
) -> None:
    with one_console(ready, tmp_path) as (guest, peer):
        # Linux gives a line and its carriage return to the device in turns of their own.
        guest.command("exec 3<>/dev/hvc0; stty raw -echo -opost <&3; seq 1 50000 >/tmp/lines")
        # More than is kept for a peer that does not read, here and in the socket: the guest goes
        # on undisturbed.
        guest.command("cat /tmp/lines >&3", 3 * PATIENCE)
        received = b""
        while len(received) < OUTPUT_LIMIT // 2:
            received += peer.recv(65536)
        lines = received[: OUTPUT_LIMIT // 2].split(b"\n")[:-1]
        assert lines == [b"%d" % number for number in range(1, len(lines) + 1)]
    assert "the peer of chardev c does not read; output is dropped" in guest.errors.decode()


def test_64_mib_come_back_over_vsock_unharmed(ready: Callable[..., MachineProcess]) -> None:
    guest = ready("-smp", "2", "-device", "vhost-vsock-device,id=vsock0,guest-cid=3")
    guest.type("vsock-echo 1024\n")
    guest.expect("vsock-echo: listening")
    content = os.urandom(1 * MIB)
    total = 64
    received = hashlib.md5()
    with socket.socket(socket.AF_VSOCK) as peer:
        peer.settimeout(PATIENCE)
        peer.connect((3, 1024))

        def send() -> None:
            for _ in range(total):
                peer.sendall(content)
            peer.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        size = 0
        while size < total * MIB:
            assert select.select([peer], [], [], PATIENCE)[0], f"stuck after {size} bytes"
            part = peer.recv(1 << 18)
            assert part
            received.update(part)
            size += len(part)
        sender.join()
    expected = hashlib.md5()
    for _ in range(total):
        expected.update(content)
    assert received.digest() == expected.digest()
    guest.expect("# ")
    guest.type("poweroff -f\n")
    assert guest.wait() == 0


def test_vsock_by_descriptor(ready: Callable[..., MachineProcess]) -> None:
    fd = os.open("/dev/vhost-vsock", os.O_RDWR)
    os.set_inheritable(fd, True)
    guest = ready("-device", f"vhost-vsock-device,guest-cid=9,vhostfd={fd}", pass_fds=(fd,))
    os.close(fd)
    guest.type("vsock-echo 7\n")
    guest.expect("vsock-echo: listening")
    with socket.socket(socket.AF_VSOCK) as peer:
        peer.settimeout(PATIENCE)
        peer.connect((9, 7))
        peer.sendall(b"hello")
        assert peer.recv(5) == b"hello"


def test_a_context_id_in_use_is_a_mistake(ready: Callable[..., MachineProcess], boot: Boot) -> None:
    ready("-device", "vhost-vsock-device,guest-cid=5")
    second = boot("-device", "vhost-vsock-device,guest-cid=5")
    assert second.wait() == 1
    assert second.errors.decode() == (
        "stratovirt: -device vhost-vsock-device,guest-cid=5: another guest has this id\n"
    )


def test_drivers_leave_and_come_back(ready: Callable[..., MachineProcess], tmp_path: Path) -> None:
    guest = ready(
        "-object", "rng-random,id=r", "-device", "virtio-rng-device,rng=r",
        "-device", "virtio-balloon-device", "-device", "vhost-vsock-device,guest-cid=7",
        "-device", "virtio-serial-device", "-chardev", f"file,path={tmp_path}/hvc,id=c",
        "-device", "virtconsole,chardev=c",
    )  # fmt: skip
    drivers = "/sys/bus/virtio/drivers"
    for _ in range(3):
        guest.command(
            f"for d in {drivers}/*; do for v in $d/virtio*; do [ -e $v ] || continue; "
            "n=${v##*/}; echo $n >$d/unbind; echo $n >$d/bind; done; done"
        )
    assert int(guest.command("dd if=/dev/hwrng bs=64 count=4 2>/dev/null | wc -c")) == 256
    guest.command("echo still here >/dev/hvc0")
    wait_until(lambda: "still here" in (tmp_path / "hvc").read_text(), "the console works")
    guest.type("poweroff -f\n")
    assert guest.wait() == 0
