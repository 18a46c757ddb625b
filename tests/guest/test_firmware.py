"""The standard machine with firmware: Debian's OVMF in flash."""

import shutil
from pathlib import Path

import pytest

from tests.guest.conftest import Boot, GuestFiles
from tests.machine_process import MachineProcess

OVMF = Path("/usr/share/OVMF")


@pytest.fixture
def flashes(tmp_path: Path) -> list[str]:
    """Debian's firmware, and a variable store of its own."""
    store = Path(shutil.copy(OVMF / "OVMF_VARS_4M.fd", tmp_path / "vars.fd"))
    return [
        "-drive", f"file={OVMF}/OVMF_CODE_4M.fd,if=pflash,unit=0,readonly=on",
        "-drive", f"file={store},if=pflash,unit=1",
    ]  # fmt: skip


def test_firmware_boots_a_kernel(
    boot: Boot, flashes: list[str], root_image: Path
) -> None:
    guest = boot(
        "-m", "512M", "-smp", "2", *flashes,
        "-drive", f"id=d,file={root_image},direct=off",
        "-device", "pcie-root-port,id=p1,bus=pcie.0,addr=0x2,port=1",
        "-device", "virtio-blk-pci,drive=d,bus=p1,addr=0x0",
        board="q35",
    )  # fmt: skip
    try:
        guest.expect("guest: ready in the initramfs", 200)
    finally:
        print(guest.console.decode(errors="replace")[-3000:])
        print(guest.errors)
        print(guest._threads())
    guest.expect("# ")
    print(guest.command("dmesg"))
