"""The example of a device in a package of its own, used by real guests with the filter on."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.guest.conftest import Boot

EXAMPLE = Path(__file__).parents[2] / "examples/kv"
REQUESTS = "colour colour=red shape=round size=big colour=blue colour"
"""Of a store for two keys."""


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example's module and entry point, as an installer lays them out."""
    shutil.copy(EXAMPLE / "stratovirt_kv.py", tmp_path)
    facts = tmp_path / "stratovirt_kv-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: stratovirt-kv\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[stratovirt.devices]\nvirtio-kv = stratovirt_kv\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A disk whose content is the driver's program."""
    disk = tmp_path / "kv"
    source = Path(__file__).with_name("kv_driver.c")
    subprocess.run(["gcc", "-O2", "-static", "-o", disk, source], check=True)
    with disk.open("r+b") as file:
        file.truncate(-(-disk.stat().st_size // 4096) * 4096)
    return disk


@pytest.mark.usefixtures("example")
@pytest.mark.parametrize(
    "board, device, disk, place",
    [
        ("microvm", "virtio-kv-device,keys=2", "virtio-blk-device", "mmio 0xf0100000"),
        (
            "q35", "virtio-kv-pci,keys=2,bus=pcie.0,addr=0x5",
            "virtio-blk-pci,bus=pcie.0,addr=0x6", "pci 0000:00:05.0",
        ),
    ],
)  # fmt: skip
def test_a_guests_program_drives_a_packages_device(
    ready: Boot, program: Path, board: str, device: str, disk: str, place: str
) -> None:
    guest = ready(
        "-device", device, "-drive", f"id=p,file={program},direct=off,readonly=on",
        "-device", f"{disk},drive=p", board=board, append="iomem=relaxed",
    )  # fmt: skip
    guest.command("dd if=/dev/vda of=/kv bs=64k 2>/dev/null; chmod +x /kv")
    answers = guest.command(f"/kv {place} {REQUESTS}").split()
    assert answers == ["1", "0", "0", "1", "0", "0blue"]
