"""The standard machine with firmware: Debian's OVMF in flash."""

import shutil
import subprocess
from pathlib import Path

import pytest

from stratovirt_lab.debian_disk import debian_disk
from tests.machine_process import MachineProcess, QmpClient

OVMF = Path("/usr/share/OVMF")
BOOT_PATIENCE = 240


@pytest.fixture
def flashes(tmp_path: Path) -> list[str]:
    """Debian's firmware, and a variable store of its own."""
    store = Path(shutil.copy(OVMF / "OVMF_VARS_4M.fd", tmp_path / "vars.fd"))
    return [
        "-drive", f"file={OVMF}/OVMF_CODE_4M.fd,if=pflash,unit=0,readonly=on",
        "-drive", f"file={store},if=pflash,unit=1",
    ]  # fmt: skip


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A Debian of its own."""
    path = tmp_path / "debian.img"
    subprocess.run(["cp", "--sparse=always", debian_disk(), path], check=True)
    return path


def start(flashes: list[str], disk: Path, qmp: Path) -> MachineProcess:
    """Debian on a q35 with firmware, its console on ttyS0."""
    return MachineProcess(
        "-machine", "q35", "-m", "768M", "-smp", "2", *flashes,
        "-uuid", "12345678-9abc-def0-1234-56789abcdef0",
        "-drive", f"id=d,file={disk},direct=off",
        "-device", "pcie-root-port,id=p1,bus=pcie.0,addr=0x2,port=1",
        "-device", "virtio-blk-pci,drive=d,bus=p1,addr=0x0,bootindex=1",
        "-serial", "stdio", "-qmp", f"unix:{qmp},server,nowait",
    )  # fmt: skip


def log_in(guest: MachineProcess) -> None:
    """Wait for the login prompt and become root."""
    guest.expect("debian login: ", BOOT_PATIENCE)
    guest.type("root\n")
    guest.expect("root@debian", BOOT_PATIENCE)
    guest.command("dmesg -n 1", BOOT_PATIENCE)


def test_debian_boots_reboots_powers_off_and_keeps_its_boot_entry(
    flashes: list[str], disk: Path, tmp_path: Path
) -> None:
    path = tmp_path / "qmp"
    with start(flashes, disk, path) as guest:
        log_in(guest)
        assert guest.command("cat /sys/class/dmi/id/product_uuid").strip() == (
            "12345678-9abc-def0-1234-56789abcdef0"
        )
        guest.command(
            "efibootmgr -q -c -d /dev/vda -p 1 -L 'Entry of the guest' "
            "-l '\\EFI\\BOOT\\BOOTX64.EFI'"
        )
        with QmpClient(path) as qmp:
            guest.type("reboot\n")
            log_in(guest)
            assert qmp.wait_event("RESET")["data"] == {"guest": True, "reason": "guest-reset"}
            assert "Entry of the guest" in guest.command("efibootmgr")
            qmp.cmd("system_powerdown")
        assert guest.wait(BOOT_PATIENCE) == 0
    with start(flashes, disk, path) as guest:
        guest.expect('BdsDxe: starting Boot[0-9]+ "Entry of the guest"', BOOT_PATIENCE)
