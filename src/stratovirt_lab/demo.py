"""``make demo``: a real Linux guest on an ext4 root under stratovirt, here or in the lab."""

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from stratovirt_lab import host, images
from stratovirt_lab.architectures import of_this_host
from stratovirt_lab.cache import say
from stratovirt_lab.errors import LabError

GUEST_APPEND = "quiet panic=1 root=/dev/vda rw"
PROBE_SECONDS = 10
GUEST_SECONDS = 300


def run() -> int:
    """Boot the guest and return the exit status of the commands run in it."""
    stratovirt = Path(sys.executable).with_name("stratovirt")
    if not stratovirt.exists():
        raise LabError("stratovirt is not installed beside this Python; run 'make setup'")
    say("preparing kernel and root image")
    kernel, initramfs, root = (
        images.guest_kernel(),
        images.guest_initramfs(),
        images.guest_root(),
    )
    interactive = os.isatty(0) and os.isatty(1)
    runs_here, why = host_runs_stock_kernels(stratovirt)
    if interactive:
        say("you get the guest's shell; leave it with 'poweroff -f', or Ctrl-A x")
    if runs_here:
        say("booting on this machine's KVM")
        with tempfile.TemporaryDirectory(prefix="stratovirt-demo-") as folder:
            script = _script(stratovirt, kernel, initramfs, root, Path(folder), interactive)
            return subprocess.run(["sh", "-c", script]).returncode
    say(f"{why}; booting in the lab (about 20 seconds)")
    script = _script(stratovirt, kernel, initramfs, root, Path("/scratch"), interactive)
    return host.run(["sh", "-c", script], architecture=of_this_host())


def host_runs_stock_kernels(stratovirt: Path) -> tuple[bool, str]:
    """Whether /dev/kvm here can run what stock kernels contain, and if not, why.

    Opening it proves nothing: a page-table based KVM opens and runs small payloads and stops at
    the first instruction that it cannot emulate.  So such an instruction is executed.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False, "there is no usable /dev/kvm here"
    with tempfile.TemporaryDirectory(prefix="stratovirt-probe-") as folder:
        payload = Path(folder) / "probe.elf"
        payload.write_bytes(of_this_host().probe())
        try:
            done = subprocess.run(
                [stratovirt, "-machine", "microvm", "-kernel", payload],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=PROBE_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return False, "this machine's KVM hangs on a stock kernel's instructions"
    if done.returncode != 0:
        return False, "this machine's KVM cannot run a stock kernel's instructions"
    return True, ""


def _script(
    stratovirt: Path, kernel: Path, initramfs: Path, root: Path, folder: Path, interactive: bool
) -> str:
    disk, log = folder / "root.img", folder / "console.log"
    append = f"console={of_this_host().console} {GUEST_APPEND}{'' if interactive else ' demo'}"
    command = shlex.join(
        [
            str(stratovirt),
            "-machine",
            "microvm",
            "-smp",
            "2",
            "-m",
            "512",
            "-kernel",
            str(kernel),
            "-initrd",
            str(initramfs),
            "-append",
            append,
            "-drive",
            f"file={disk},id=rootfs,readonly=off,direct=off",
            "-device",
            "virtio-blk-device,drive=rootfs,id=rootfs",
            "-serial",
            "stdio",
        ]
    )
    copy = f"cp {shlex.quote(str(root))} {shlex.quote(str(disk))}"
    if interactive:
        return f"{copy} && {command}"
    return f"""
{copy} || exit 1
echo {shlex.quote("$ " + command)}
timeout {GUEST_SECONDS} {command} </dev/null | tee {log}
grep -q 'guest commands ended with status 0' {log} || {{
    echo 'demo: the guest did not finish its commands; see its console above' >&2; exit 1; }}
echo 'demo: checking the root file system after the guest wrote to it'
PATH=$PATH:/usr/sbin:/sbin fsck.ext4 -fn {disk}
"""
