"""Stock Linux saved at work and started again: programs go on as if nothing had happened."""

import hashlib
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from stratovirt_lab import images
from stratovirt_lab.architectures import of_this_host
from tests.guest.conftest import Boot, Tools
from tests.guest.test_net import HOST, MakeTap, make_tap, ready
from tests.kvm.test_snapshot import save
from tests.machine_process import PATIENCE, MachineProcess, QmpClient

__all__ = ["make_tap"]

MIB = 1 << 20
CLONES = {"microvm": 3, "q35": 1}
boards = pytest.mark.parametrize("board", CLONES)


def device(board: str, stem: str, place: str, options: str) -> list[str]:
    """A virtio device on either board; `place` is for the one with PCI."""
    on = f"-pci,{place}" if board == "q35" else "-device"
    return ["-device", f"virtio-{stem}{on},{options}".rstrip(",")]


FIO = (
    "chroot /tools fio --name=v --filename=/dev/vda --direct=1 --ioengine=libaio --iodepth=8 "
    "--rw=randwrite --bs=4k --size=24m --rate_iops=300 --verify=crc32c --verify_fatal=1"
)
# Each leaves its result in /r when it has ended.
PROGRAMS = (
    f"({FIO} >/tmp/fio 2>&1; echo $? >/r/fio) & ",
    "(nc -l -p 5000 <>/open | md5sum >/tmp/sum; mv /tmp/sum /r/tcp) & ",
    "(sleep 1; for i in $(seq 0 159); do dd if=/blob bs=64k skip=$i count=1 2>/dev/null; "
    "sleep 0.1; done | nc 127.0.0.1 5000) & ",
    # Waits a thousand times for 10 ms, and looks whether time ever goes back.
    "(last=0; for i in $(seq 1000); do usleep 10000; read now rest </proc/uptime; "
    "now=${now%.*}${now#*.}; [ $now -ge $last ] || echo $now after $last; last=$now; done "
    ">/tmp/timer; mv /tmp/timer /r/timer) & ",
)


def save_and_quit(guest: MachineProcess, path: Path, folder: Path, disk: Path | None) -> None:
    with QmpClient(path) as qmp:
        qmp.cmd("stop")
        info = save(qmp, folder)
        assert info["status"] == "completed", info
        if disk is not None:
            shutil.copy(disk, f"{disk}.saved")
        qmp.cmd("quit")
    assert guest.wait() == 0


def check_programs(guest: MachineProcess, digest: str) -> None:
    guest.command("cd /r; for i in $(seq 300); do [ -e fio -a -e tcp -a -e timer ] && break; "
                  "sleep 0.2; done", 3 * PATIENCE)  # fmt: skip
    ended = guest.command("ls").split()
    assert ended == ["fio", "tcp", "timer"], guest.command("ps; dmesg | tail; cat /proc/interrupts")
    assert guest.command("cat fio; grep -c 'err= 0' /tmp/fio").split() == ["0", "1"]
    assert guest.command("cat tcp").split()[0] == digest
    assert guest.command("cat timer") == ""
    assert abs(int(guest.command("date +%s")) - time.time()) < 5


@boards
def test_every_clone_ends_what_its_template_began(
    boot: Boot, tools: type[Tools], tmp_path: Path, board: str
) -> None:
    disk, folder, path = tmp_path / "disk", tmp_path / "template", tmp_path / "qmp"
    disk.write_bytes(bytes(32 * MIB))

    def options(image: Path) -> list[str]:
        return [
            "-smp", "2", "-m", "512M", "-qmp", f"unix:{path},server,nowait",
            *(("-device", "pcie-root-port,id=p1,bus=pcie.0,addr=3") if board == "q35" else ()),
            "-drive", f"id=d,file={image}", *device(board, "blk", "bus=pcie.0,addr=4", "drive=d"),
            "-drive", tools.drive,
            *device(board, "blk", "bus=p1,addr=0", "drive=tools,serial=guest-tools"),
        ]  # fmt: skip

    def take_template() -> str:
        guest = boot(*options(disk), board=board)
        guest.expect("guest: ready in the initramfs")
        guest.expect("# ")
        tools.mount(guest)
        guest.command("ip link set lo up; mkdir /r; mkfifo /open")
        guest.command("dd if=/dev/urandom of=/blob bs=1M count=10 2>/dev/null")
        digest = guest.command("md5sum /blob").split()[0]
        for program in PROGRAMS:
            guest.command(program + "true")
        time.sleep(4)
        assert guest.command("ls /r") == ""
        save_and_quit(guest, path, folder, disk)
        return digest

    def run_clone() -> None:
        own = tmp_path / "own"
        shutil.copy(f"{disk}.saved", own)
        clone = boot(*options(own), "-incoming", f"file:{folder}", board=board)
        check_programs(clone, digest)
        assert "rcu" not in clone.command("dmesg | grep -i 'stall\\|lockup\\|hung' || true")
        clone.type("poweroff -f\n")
        assert clone.wait() == 0

    digest = take_template()
    # Time goes on for a machine that is saved.
    time.sleep(3)
    for _ in range(CLONES[board]):
        run_clone()


@boards
def test_a_connection_to_the_host_outlives_the_machine(
    boot: Boot, make_tap: MakeTap, tmp_path: Path, board: str
) -> None:
    folder, path, tap = tmp_path / "template", tmp_path / "qmp", make_tap()
    argv = [
        "-qmp", f"unix:{path},server,nowait", "-netdev", f"tap,id=n0,ifname={tap}",
        *device(board, "net", "bus=pcie.0,addr=4", "netdev=n0,id=net0,mac=12:34:56:78:9A:BC"),
    ]  # fmt: skip
    guest = ready(boot(*argv, board=board))
    content = os.urandom(8 * MIB)
    with socket.create_server((HOST, 0)) as server:

        def serve() -> None:
            peer, _ = server.accept()
            with peer:
                for at in range(0, len(content), 64 << 10):
                    peer.sendall(content[at : at + (64 << 10)])
                    time.sleep(0.08)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        port = server.getsockname()[1]
        guest.command(f"(nc {HOST} {port} </dev/null | md5sum >/tmp/s; mv /tmp/s /sum) & true")
        time.sleep(2)
        save_and_quit(guest, path, folder, None)
        clone = boot(*argv, "-incoming", f"file:{folder}", board=board)
        clone.command("for i in $(seq 600); do [ -e /sum ] && break; sleep 0.2; done", 2 * PATIENCE)
        thread.join(PATIENCE)
    assert clone.command("cat /sum").split()[0] == hashlib.md5(content).hexdigest()


def test_a_clone_learns_that_it_is_one(boot: Boot, tmp_path: Path) -> None:
    folder, path = tmp_path / "template", tmp_path / "qmp"
    # Debian's cloud kernel has no driver of the generation id; its big one has.
    kernel = str(images.host_kernel(of_this_host()).image)
    guest = boot("-qmp", f"unix:{path},server,nowait", kernel=kernel)
    guest.expect("# ")
    assert "vmgenid" in guest.command("ls /sys/bus/acpi/drivers")
    log = "dmesg | grep -c 'crng reseeded due to virtual machine fork' || true"
    assert guest.command(log).strip() == "0"
    save_and_quit(guest, path, folder, None)
    seen = set()
    for _ in range(2):
        clone = boot("-incoming", f"file:{folder}", kernel=kernel)
        assert clone.command(f"sleep 0.5; {log}").strip() == "1"
        seen.add(clone.command("head -c 16 /dev/urandom | md5sum"))
        clone.type("poweroff -f\n")
        assert clone.wait() == 0
    assert len(seen) == 2


@boards
def test_consoles_balloon_and_rng_go_on(boot: Boot, tmp_path: Path, board: str) -> None:
    folder, path = tmp_path / "template", tmp_path / "qmp"

    def options(name: str) -> list[str]:
        return [
            "-smp", "2", "-m", "512M", "-qmp", f"unix:{path},server,nowait",
            *device(board, "serial", "bus=pcie.0,addr=4", "id=s"),
            "-chardev", f"file,id=c0,path={tmp_path}/{name}",
            "-device", "virtconsole,chardev=c0,id=p0",
            "-object", "rng-random,id=r,filename=/dev/urandom",
            *device(board, "rng", "bus=pcie.0,addr=5", "rng=r"),
            *device(board, "balloon", "bus=pcie.0,addr=6", "id=b"),
        ]  # fmt: skip

    guest = boot(*options("first"), board=board)
    guest.expect("guest: ready in the initramfs")
    guest.expect("# ")
    guest.command("echo from the template >/dev/hvc0")
    # What the guest gave to the balloon is no part of the snapshot.
    guest.command("dd if=/dev/urandom of=/big bs=1M count=128 2>/dev/null; rm /big")
    with QmpClient(path) as qmp:
        qmp.cmd("balloon", value=192 * MIB)
        while qmp.cmd("query-balloon")["actual"] > 200 * MIB:
            time.sleep(0.2)
    save_and_quit(guest, path, folder, None)
    assert (folder / "memory").stat().st_blocks * 512 < 200 * MIB
    for name in ("second", "third"):
        clone = boot(*options(name), "-incoming", f"file:{folder}", board=board)
        clone.command("echo from a clone >/dev/hvc0")
        clone.command("dd if=/dev/hwrng of=/dev/null bs=64 count=4")
        with QmpClient(path) as qmp:
            assert qmp.cmd("query-balloon")["actual"] <= 200 * MIB
            qmp.cmd("balloon", value=512 * MIB)
            while qmp.cmd("query-balloon")["actual"] < 500 * MIB:
                time.sleep(0.2)
        clone.command("dd if=/dev/zero of=/big bs=1M count=100 2>/dev/null")
        clone.type("poweroff -f\n")
        assert clone.wait() == 0
        assert (tmp_path / name).read_text().strip() == "from a clone"


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["-netdev", "tap,id=n0,ifname=tap0,vhost=on",
          "-device", "virtio-net-device,netdev=n0,id=net0"], "net0: vhost=on"),
        (["-device", "vhost-vsock-device,id=vs0,guest-cid=77"], "vs0: vhost-vsock's connections"),
    ],
)  # fmt: skip
def test_what_the_kernel_keeps_is_refused_by_name(
    boot: Boot, make_tap: MakeTap, tmp_path: Path, argv: list[str], text: str
) -> None:
    path, folder = tmp_path / "qmp", tmp_path / "template"
    make_tap()
    boot(*argv, "-qmp", f"unix:{path},server,nowait", "-S")
    with QmpClient(path) as qmp:
        with pytest.raises(Exception, match=re.escape(text)):
            qmp.cmd("migrate", uri=f"file:{folder}")
        assert qmp.cmd("query-migrate") == {"status": "none"}
    assert not folder.exists()


def test_huge_pages_and_nodes_hold_a_template_too(boot: Boot, tmp_path: Path) -> None:
    folder, path = tmp_path / "template", tmp_path / "qmp"
    monitor = ["-qmp", f"unix:{path},server,nowait"]
    pages = Path("/proc/sys/vm/nr_hugepages")
    huge = tmp_path / "huge"
    huge.mkdir()
    subprocess.run(["mount", "-t", "hugetlbfs", "none", str(huge)], check=True)
    pages.write_text("160")
    nodes = [
        "-object", f"memory-backend-file,id=m0,size=256M,mem-path={huge}",
        "-object", "memory-backend-ram,id=m1,size=256M,policy=bind,host-nodes=1",
        "-numa", "node,nodeid=0,cpus=0,memdev=m0", "-numa", "node,nodeid=1,cpus=1,memdev=m1",
        "-m", "512M", "-smp", "2",
    ]  # fmt: skip
    try:
        guest = boot(*monitor, *nodes)
        guest.expect("guest: ready in the initramfs")
        guest.expect("# ")
        guest.command("dd if=/dev/urandom of=/big bs=1M count=200 2>/dev/null")
        digest = guest.command("md5sum /big")
        save_and_quit(guest, path, folder, None)
        clone = boot(*monitor, *nodes, "-incoming", f"file:{folder}")
        assert clone.command("md5sum /big") == digest
        clone.type("poweroff -f\n")
        assert clone.wait() == 0
    finally:
        pages.write_text("0")
        subprocess.run(["umount", str(huge)], check=False)
