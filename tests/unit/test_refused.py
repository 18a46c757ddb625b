"""What a board cannot have: read, checked, and refused in one line."""

import subprocess

import pytest

from stratovirt import __version__
from stratovirt.config.command_line import parse_command_line
from stratovirt.config.errors import ConfigError
from tests.programs import STRATOVIRT

KERNEL = ["-kernel", "k"]
DRIVE = ["-drive", "id=d,file=x"]
NETDEV = ["-netdev", "tap,id=n,ifname=t"]
RNG = ["-object", "rng-random,id=r"]
PCI = "bus=pcie.0,addr=0x1"
NO_PCI = "microvm has no PCI bus"

REFUSED: dict[str, tuple[list[str], str]] = {
    "-global": (["-global", "pcie-root-port.fast-unplug=1"], NO_PCI),
    "-drive if=pflash": (["-drive", "if=pflash,unit=0,file=x"], "microvm has no flash memory"),
    "-netdev vhost-user": (
        [
            "-chardev", "pty,id=c", "-netdev", "vhost-user,id=n,chardev=c",
            "-device", "virtio-net-device,netdev=n",
        ],
        "microvm has no virtio-net-pci",
    ),
    "-device virtio-blk-pci": ([*DRIVE, "-device", f"virtio-blk-pci,drive=d,{PCI}"], NO_PCI),
    "-device virtio-net-pci": ([*NETDEV, "-device", f"virtio-net-pci,netdev=n,{PCI}"], NO_PCI),
    "-device virtio-serial-pci": (["-device", f"virtio-serial-pci,{PCI}"], NO_PCI),
    "-device vhost-vsock-pci": (["-device", f"vhost-vsock-pci,guest-cid=3,{PCI}"], NO_PCI),
    "-device virtio-balloon-pci": (["-device", f"virtio-balloon-pci,{PCI}"], NO_PCI),
    "-device virtio-rng-pci": ([*RNG, "-device", f"virtio-rng-pci,rng=r,{PCI}"], NO_PCI),
    "-device pcie-root-port": (["-device", f"pcie-root-port,id=p,{PCI}"], NO_PCI),
    "-device vfio-pci": (["-device", f"vfio-pci,host=0000:1a:00.3,{PCI}"], NO_PCI),
}  # fmt: skip


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_a_board_cannot_have_is_refused_in_one_line(name: str) -> None:
    argv, complaint = REFUSED[name]
    with pytest.raises(ConfigError) as caught:
        parse_command_line([*KERNEL, *argv])
    flag = name.partition(" ")[0].partition(",")[0]
    assert str(caught.value).startswith(flag) and complaint in str(caught.value)


def test_a_boot_order_is_taken_where_no_firmware_reads_it() -> None:
    # Guidebook, chapter 7: bootindex is there for libvirt.
    argv = [*KERNEL, *DRIVE, "-device", "virtio-blk-device,drive=d,bootindex=1"]
    assert parse_command_line(argv).devices[0].bootindex == 1


def test_the_version_is_printed() -> None:
    done = subprocess.run([STRATOVIRT, "-version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"StratoVirt {__version__}\n"
