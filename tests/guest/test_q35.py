"""The standard machine with a real guest: PCI Express, the kernel booted directly."""

from pathlib import Path

from tests.guest.conftest import Boot


def test_a_guest_finds_its_devices_on_pci(ready: Boot, root_image: Path) -> None:
    guest = ready(
        "-m", "512M", "-smp", "2",
        "-drive", f"id=d,file={root_image},direct=off",
        "-device", "virtio-blk-pci,drive=d,bus=pcie.0,addr=0x3,num-queues=2",
        "-object", "rng-random,id=r", "-device", "virtio-rng-pci,rng=r,bus=pcie.0,addr=0x4.0x0",
        "-device", "virtio-balloon-pci,bus=pcie.0,addr=0x5",
        board="q35",
    )  # fmt: skip
    print(guest.command("dmesg"))
    print(guest.command("cat /proc/interrupts; lspci -k; cat /proc/iomem; cat /proc/ioports"))
    guest.type("poweroff -f\n")
    assert guest.wait() == 0
