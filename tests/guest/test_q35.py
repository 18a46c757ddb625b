"""The standard machine with a real guest: every virtio device over PCI, no firmware."""

import hashlib
import os
import socket
from pathlib import Path

from tests.guest.conftest import Boot
from tests.guest.test_net import GUEST, HOST, MakeTap, make_tap, send_to_guest
from tests.machine_process import PATIENCE, QmpClient, wait_until

__all__ = ["make_tap"]

MIB = 1 << 20


def test_every_device_works_over_pci(
    ready: Boot, make_tap: MakeTap, root_image: Path, tmp_path: Path
) -> None:
    qmp, hvc, tap = tmp_path / "qmp", tmp_path / "hvc", make_tap("multi_queue")
    guest = ready(
        "-m", "512M", "-smp", "2", "-qmp", f"unix:{qmp},server,nowait",
        "-drive", f"id=d,file={root_image},direct=off",
        "-device", "virtio-blk-pci,drive=d,bus=pcie.0,addr=0x1.0x0,id=blk-0,multifunction=on,"
        "serial=one,num-queues=2,bootindex=1",
        "-object", "rng-random,id=r",
        "-device", "virtio-rng-pci,rng=r,max-bytes=100000,period=1000,bus=pcie.0,addr=0x5",
        "-netdev", f"tap,id=n,ifname={tap},queues=2",
        "-device", "virtio-net-pci,netdev=n,id=net,bus=pcie.0,addr=0x2,mac=12:34:56:78:9A:BC,mq=on",
        "-device", "virtio-serial-pci,bus=pcie.0,addr=0x3.0x0,id=virtio-serial0",
        "-chardev", f"socket,path={hvc},id=c,server,nowait",
        "-device", "virtconsole,chardev=c,id=console",
        "-device", "vhost-vsock-pci,id=vsock,guest-cid=7,bus=pcie.0,addr=0x4",
        "-device", "virtio-balloon-pci,bus=pcie.0,addr=0x1.0x1,deflate-on-oom=true,id=balloon",
        "-uuid", "12345678-9abc-def0-1234-56789abcdef0",
        board="q35",
    )  # fmt: skip
    assert guest.command("dmesg | grep -ic 'acpi.*\\(error\\|warning\\)' || true").strip() == "0"
    assert guest.command("cat /sys/class/dmi/id/product_uuid").startswith("12345678-9abc-def0")
    # Each queue has a vector of its own.
    lines = guest.command("grep -c 'virtio.*\\(req\\|put\\)' /proc/interrupts")
    assert int(lines) >= 2 + 4 + 1
    digest = hashlib.md5(root_image.read_bytes()).hexdigest()
    assert guest.command("md5sum /dev/vda").split()[0] == digest
    assert guest.command("cat /sys/block/vda/serial").strip() == "one"
    assert guest.command("ls -d /sys/block/vda/mq/* | wc -l").strip() == "2"
    guest.command("dd if=/dev/hwrng of=/dev/null bs=64 count=8 2>/dev/null")
    guest.command(f"ip addr add {GUEST}/24 dev eth0; ip link set eth0 up")
    assert guest.command("ls -d /sys/class/net/eth0/queues/rx-* | wc -l").strip() == "2"
    content = os.urandom(4 * MIB)
    assert send_to_guest(guest, content) == hashlib.md5(content).hexdigest()
    assert ", 0% packet loss" in guest.command(f"ping -c 3 -i 0.2 {HOST}")
    guest.command("stty raw -echo </dev/hvc0; cat </dev/hvc0 >/dev/hvc0 & sleep 0")
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(PATIENCE)
        peer.connect(str(hvc))
        peer.sendall(b"over the console")
        answer = b""
        while len(answer) < 16:
            answer += peer.recv(64)
        assert answer == b"over the console"
    guest.type("vsock-echo 1024 &\n")
    guest.expect("vsock-echo: listening")
    with socket.socket(socket.AF_VSOCK) as peer:
        peer.settimeout(PATIENCE)
        peer.connect((7, 1024))
        peer.sendall(b"hello")
        assert peer.recv(5) == b"hello"
    with QmpClient(qmp) as client:
        client.cmd("balloon", value=400 * MIB)
        wait_until(lambda: client.cmd("query-balloon")["actual"] == 400 * MIB, "the balloon")
        guest.type("\n")
        guest.command("true")
        # Who listens to the button has to be there before it is pressed.
        guest.command("(head -c 24 /dev/input/event0 >/dev/null && poweroff -f) & sleep 1")
        client.cmd("system_powerdown")
    assert guest.wait() == 0


def test_a_guest_that_reboots_starts_anew(ready: Boot, root_image: Path, tmp_path: Path) -> None:
    qmp = tmp_path / "qmp"
    guest = ready(
        "-smp", "2", "-qmp", f"unix:{qmp},server,nowait",
        "-drive", f"id=d,file={root_image},direct=off",
        "-device", "pcie-root-port,port=0x1,addr=0x1,bus=pcie.0,id=pcie.1",
        "-device", "virtio-blk-pci,drive=d,bus=pcie.1,addr=0x0",
        board="q35",
    )  # fmt: skip
    with QmpClient(qmp) as client:
        # By the reset register, and by the processor's last resort.
        for how in ("reboot -f", "echo b >/proc/sysrq-trigger"):
            guest.command("touch /only-in-memory; head -c 4096 /dev/vda >/dev/null")
            guest.type(f"{how}\n")
            assert client.wait_event("RESET")["data"] == {"guest": True, "reason": "guest-reset"}
            guest.expect("guest: ready in the initramfs")
            guest.expect("# ")
            assert guest.command("ls /only-in-memory 2>/dev/null || true") == ""
        client.cmd("system_reset")
        guest.expect("guest: ready in the initramfs")
        guest.expect("# ")
        assert guest.command("cat /sys/block/vda/size").strip() == "131072"
        client.cmd("quit")
    assert guest.wait() == 0
