"""``make bench-io``, second part, in the lab: disk and network of a guest, beside QEMU's.

The board is microvm with virtio-mmio, or with the argument q35 that one with virtio-pci.

Both guests run side by side with the same kernel, fio and iperf3; only one is busy at a time.
Rounds alternate; printed are medians and the ratio ours/QEMU.
"""

from __future__ import annotations

import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.machine_process import MachineProcess
from tests.programs import STRATOVIRT

from stratovirt_lab import images
from stratovirt_lab.architectures import of_this_host

ROUNDS = 5
NET_ROUNDS = 11
"""A connection's speed in the lab depends on which CPU each end happened to get."""
SECONDS = 3
IMAGE_MIB = 256
TARGET = 0.9
APPEND = f"console={of_this_host().console} quiet panic=1"
QEMU = "qemu-system-x86_64"
FIO = (
    "chroot /tools fio --name=b --filename=/dev/vda --direct=1 --ioengine=libaio --thread "
    f"--bs=4k --time_based --runtime={SECONDS} --gtod_reduce=1 --minimal"
)
READ_IOPS, WRITE_IOPS = 7, 48
"""Fields of fio's terse output, version 3."""
DISK_CASES = [(mode, depth) for mode in ("randread", "randwrite") for depth in (1, 32)]
NET_CASES = [(vhost, back) for vhost in (False, True) for back in (False, True)]


PLACED = {
    name: f"-pci,bus=pcie.0,addr={slot}"
    for slot, name in enumerate(("disk", "tools", "n0", "n1"), start=2)
}
"""Where the devices of a q35 are."""


def ours(disk: Path, taps: list[str], board: str) -> list[str]:
    """Our command line."""
    on = dict.fromkeys(PLACED, "-device") if board == "microvm" else PLACED
    return [
        STRATOVIRT, "-machine", board, "-m", "512M", "-smp", "1", "-serial", "stdio",
        "-object", "iothread,id=io",
        "-drive", f"id=disk,file={disk},direct=off",
        "-device", f"virtio-blk{on['disk']},drive=disk,iothread=io",
        "-drive", f"id=tools,file={images.guest_tools()},direct=off,readonly=on",
        "-device", f"virtio-blk{on['tools']},drive=tools,serial=guest-tools",
        "-netdev", f"tap,id=n0,ifname={taps[0]}",
        "-device", f"virtio-net{on['n0']},netdev=n0,mac=52:54:00:00:01:00",
        "-netdev", f"tap,id=n1,ifname={taps[1]},vhost=on",
        "-device", f"virtio-net{on['n1']},netdev=n1,mac=52:54:00:00:01:01",
        "-kernel", str(images.guest_kernel()), "-initrd", str(images.guest_initramfs()),
        "-append", APPEND,
    ]  # fmt: skip


PEER_BOARDS = {
    "microvm": [
        "-M", "microvm,accel=kvm,x-option-roms=off,pit=off,pic=off,rtc=off",
        "-global", "virtio-mmio.force-legacy=false",
    ],
    "q35": ["-M", "q35,accel=kvm"],
}  # fmt: skip


def peer(disk: Path, taps: list[str], board: str) -> list[str]:
    """QEMU's, with all that makes it fast: modern virtio, an iothread, io_uring."""
    on = "-device" if board == "microvm" else "-pci,disable-legacy=on"
    no_rom = "" if board == "microvm" else ",romfile="
    return [
        QEMU, *PEER_BOARDS[board], "-cpu", "host", "-m", "512M", "-smp", "1",
        "-no-user-config", "-nodefaults", "-nographic", "-no-reboot", "-serial", "stdio",
        "-object", "iothread,id=io",
        "-blockdev", f"driver=file,node-name=disk,filename={disk},aio=io_uring,cache.direct=off",
        "-device", f"virtio-blk{on},drive=disk,iothread=io",
        "-blockdev", f"driver=file,node-name=tools,filename={images.guest_tools()},read-only=on",
        "-device", f"virtio-blk{on},drive=tools,serial=guest-tools",
        "-netdev", f"tap,id=n0,ifname={taps[0]},script=no,downscript=no",
        "-device", f"virtio-net{on},netdev=n0,mac=52:54:00:00:02:00{no_rom}",
        "-netdev", f"tap,id=n1,ifname={taps[1]},script=no,downscript=no,vhost=on",
        "-device", f"virtio-net{on},netdev=n1,mac=52:54:00:00:02:01{no_rom}",
        "-kernel", str(images.guest_kernel()), "-initrd", str(images.guest_initramfs()),
        "-append", APPEND,
    ]  # fmt: skip


class Guest:
    """A running guest, with its two cards' addresses on the host."""

    def __init__(self, number: int, command: list[str], taps: list[str]) -> None:
        self._machine = MachineProcess(*command[1:], program=command[0])
        self.hosts = []
        for index, tap in enumerate(taps):
            self.hosts.append(f"10.{number}.{index}.1")
            subprocess.run(["ip", "addr", "add", f"{self.hosts[-1]}/24", "dev", tap], check=True)
            subprocess.run(["ip", "link", "set", tap, "up"], check=True)
        self._number = number

    def prepare(self) -> None:
        """Wait for the shell, mount the tools, bring the cards up in the order of their MACs."""
        self._machine.expect("guest: ready in the initramfs")
        self._machine.expect("# ")
        self._machine.command(images.MOUNT_TOOLS)
        for index in range(2):
            self._machine.command(
                f"for c in /sys/class/net/eth*; do grep -q 0{index}$ $c/address && "
                f"ip addr add 10.{self._number}.{index}.2/24 dev ${{c##*/}} && "
                "ip link set ${c##*/} up; done; true"
            )
            self._machine.command(f"ping -c 2 {self.hosts[index]}")

    def iops(self, mode: str, depth: int) -> float:
        """fio's IOPS."""
        fields = self._machine.command(f"{FIO} --rw={mode} --iodepth={depth}").split(";")
        return float(fields[READ_IOPS if mode == "randread" else WRITE_IOPS])

    def megabits(self, vhost: bool, back: bool) -> float:
        """iperf3's Mbit/s from guest to host, or back."""
        host = self.hosts[vhost]
        server = subprocess.Popen(
            ["iperf3", "-s", "-1", "-J", "-B", host], stdout=subprocess.PIPE, text=True
        )
        try:
            self._machine.command(
                f"sleep 1; chroot /tools iperf3 -c {host} -t {SECONDS} {'-R ' * back}>/dev/null"
            )
            answer, _ = server.communicate(timeout=30)
        finally:
            # One that still waits would answer the next guest in its successor's place.
            server.kill()
            server.wait()
        total = json.loads(answer)["end"]
        return float(total["sum_sent" if back else "sum_received"]["bits_per_second"]) / 1e6

    def end(self) -> None:
        """Kill it."""
        self._machine.process.kill()
        self._machine.process.wait()


def main() -> int:
    """Measure, print, and say whether the target is met at each."""
    if "STRATOVIRT_IN_LAB" not in os.environ:
        print("bench: run it in the lab: make bench-io", file=sys.stderr)
        return 1
    board = sys.argv[1] if len(sys.argv) > 1 else "microvm"
    guests: dict[str, Guest] = {}
    with tempfile.TemporaryDirectory(dir="/dev/shm") as scratch:
        disk = Path(scratch) / "disk"
        for number, (name, command) in enumerate({"stratovirt": ours, "qemu": peer}.items()):
            taps = [f"{name[:4]}{index}" for index in range(2)]
            for tap in taps:
                subprocess.run(["ip", "tuntap", "add", tap, "mode", "tap", "vnet_hdr"], check=True)
            image = disk.with_name(f"disk-{name}")
            image.write_bytes(os.urandom(1 << 20) * IMAGE_MIB)
            argv = command(image, taps, board)
            print("$ " + shlex.join(argv), flush=True)
            guests[name] = Guest(number, argv, taps)
            guests[name].prepare()
        print(
            f"medians of alternating rounds of {SECONDS} s, {ROUNDS} for fio and {NET_ROUNDS} for "
            f"iperf3; target {TARGET}"
        )
        print(f"{'':<34}{'stratovirt':>12}{'qemu':>12}{'ratio':>8}", flush=True)
        missed = False
        for mode, depth in DISK_CASES:
            found: dict[str, list[float]] = {name: [] for name in guests}
            for _ in range(ROUNDS):
                for name, guest in guests.items():
                    found[name].append(guest.iops(mode, depth))
            missed |= report(f"fio 4 KiB {mode}, depth {depth}, IOPS", found)
        for vhost, back in NET_CASES:
            found = {name: [] for name in guests}
            for _ in range(NET_ROUNDS):
                for name, guest in guests.items():
                    found[name].append(guest.megabits(vhost, back))
            way = "host to guest" if back else "guest to host"
            missed |= report(f"iperf3 {way}{', vhost' if vhost else ''}, Mbit/s", found)
        for guest in guests.values():
            guest.end()
    return 1 if missed else 0


def report(name: str, found: dict[str, list[float]]) -> bool:
    """Print one row; whether the target was missed."""
    medians = {side: statistics.median(values) for side, values in found.items()}
    ratio = medians["stratovirt"] / medians["qemu"]
    print(
        f"{name:<34}{medians['stratovirt']:>12.0f}{medians['qemu']:>12.0f}{ratio:>8.2f}", flush=True
    )
    return ratio < TARGET


if __name__ == "__main__":
    sys.exit(main())
