"""What Linux takes of a command line and of files, in whatever shape, a guest gets."""

import gzip
import lzma
from pathlib import Path

from stratovirt_lab import images
from tests.guest.conftest import APPEND
from tests.machine_process import MachineProcess
from tests.payload import newc

MIB = 1 << 20


def test_a_guest_takes_what_linux_takes(tmp_path: Path) -> None:
    initrd = tmp_path / "initrd"
    with initrd.open("wb") as file:
        whole = images.guest_initramfs().read_bytes()
        file.write(whole + bytes(-len(whole) % 4))
        # No trailer, then zeros, then compressed ones.
        file.write(newc("plain", b"one") + bytes(512))
        file.write(lzma.compress(newc("squeezed", b"two"), check=lzma.CHECK_CRC32))
        file.write(bytes(-file.tell() % 4))
        file.write(gzip.compress(newc("zipped", b"three") + newc("TRAILER!!!", b"")))
        # Where the kernel stops it has what was before; the rest only has to fit.
        file.write(bytes(-file.tell() % 4) + b"end")
        file.truncate(903 * MIB)
    with MachineProcess(
        "-kernel", str(images.guest_kernel()), "-initrd", str(initrd), "-serial", "stdio",
        "-append", f"{APPEND} raw=\udcff\udcfe", "-m", "3145727K", "-smp", "2,maxcpus=4",
    ) as guest:  # fmt: skip
        guest.expect("guest: ready in the initramfs")
        guest.expect("# ")
        assert guest.command("cat /plain /squeezed /zipped").strip() == "onetwothree"
        assert "fffe" in guest.command("tr ' ' '\\n' </proc/cmdline | grep raw= | xxd -p")
        cpus = "/sys/devices/system/cpu"
        assert guest.command(f"cat {cpus}/possible {cpus}/present {cpus}/online").split() == [
            "0-3", "0-1", "0-1",
        ]  # fmt: skip
        kib = int(guest.command("grep MemTotal /proc/meminfo").split()[1])
        assert 0.9 * 3 * MIB < kib < 3 * MIB
        guest.type("poweroff -f\n")
        assert guest.wait() == 0
