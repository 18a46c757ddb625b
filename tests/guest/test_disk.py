"""virtio-blk under Linux's own driver: a root file system, checksums, faults, resets."""

import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.conftest import Boot
from tests.machine_process import MachineProcess, QmpClient

READY = r"guest: ready on /dev/vda / ext4"


def boot_root(boot: Boot, image: Path, *argv: str, drive: str = "direct=off") -> MachineProcess:
    guest = boot(
        "-smp", "2", "-drive", f"id=rootfs,file={image},{drive}",
        "-device", "virtio-blk-device,drive=rootfs,id=rootfs,serial=root-0001", *argv,
        append="root=/dev/vda rw",
    )  # fmt: skip
    guest.expect(READY)
    guest.expect("# ")
    return guest


def end(guest: MachineProcess) -> None:
    guest.type("sync; mount -o remount,ro /; poweroff -f\n")
    assert guest.wait() == 0


def fsck(image: Path) -> int:
    return subprocess.run(["/sbin/fsck.ext4", "-fn", str(image)], capture_output=True).returncode


def test_an_ext4_root_is_mounted_written_and_clean_afterwards(boot: Boot, root_image: Path) -> None:
    guest = boot_root(boot, root_image)
    assert guest.command("cat /sys/block/vda/serial").strip() == "root-0001"
    guest.command("echo persistent >/root/proof")
    end(guest)
    assert fsck(root_image) == 0
    guest = boot_root(boot, root_image)
    assert guest.command("cat /root/proof").strip() == "persistent"
    end(guest)


@pytest.fixture
def large_sectors(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A file, and a device of the host on it whose sectors have 4096 bytes."""
    file = tmp_path / "sectors"
    file.write_bytes(b"\xa5" * (64 << 20))
    shown = subprocess.run(
        ["losetup", "-f", "--show", "-b", "4096", str(file)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    device = shown.stdout.strip()
    yield file, device
    subprocess.run(["losetup", "-d", device], check=False)


def trim_small_blocks(guest: MachineProcess, name: str) -> None:
    """A file system of 1 KiB blocks is trimmed on a host that discards 4 KiB at once."""
    queue = f"/sys/block/{name}/queue"
    sizes = guest.command(f"cat {queue}/logical_block_size {queue}/physical_block_size").split()
    assert sizes == ["512", "4096"]
    guest.command(f"mke2fs -b 1024 /dev/{name} >/dev/null; mkdir -p /small")
    guest.command(f"mount -t ext4 -o rw /dev/{name} /small")
    guest.command(
        "dd if=/dev/urandom of=/small/keep bs=1000 count=5003 2>/dev/null; "
        "i=0; while [ $i -lt 40 ]; do head -c 1500 /dev/urandom >/small/$i; "
        "head -c 1500 /dev/urandom >/small/kept$i; i=$((i+1)); done; "
        "dd if=/dev/urandom of=/small/big bs=1M count=24 2>/dev/null; sync"
    )
    digest = "cat /small/keep /small/kept* | md5sum"
    before = guest.command(digest)
    guest.command("rm /small/big /small/[0-9]*; sync; fstrim /small")
    guest.command("umount /small; echo 3 >/proc/sys/vm/drop_caches")
    guest.command(f"mount -t ext4 -o ro /dev/{name} /small")
    assert guest.command(digest) == before
    guest.command("umount /small")
    # Ranges that begin and end within the host's sectors.
    guest.command(f"dd if=/dev/urandom of=/dev/{name} bs=1M count=1 seek=60 conv=fsync 2>/dev/null")
    whole = f"dd if=/dev/{name} bs=1k skip=$((60*1024)) count=1024 2>/dev/null"
    edges = f"( {whole} | head -c 3584; {whole} | tail -c $((1048576-3584-524800)) ) | md5sum"
    before = guest.command(edges)
    offset = (60 << 20) + 3584
    guest.command(f"blkdiscard -o {offset} -l 524800 /dev/{name}")
    assert guest.command(edges) == before
    errors = guest.command("dmesg | grep -i -c 'i/o error' || true")
    assert errors.strip() == "0"


def test_what_the_guest_reads_and_writes_is_what_the_host_has(
    boot: Boot, root_image: Path, tmp_path: Path, large_sectors: tuple[Path, str]
) -> None:
    disk = tmp_path / "data.img"
    content = os.urandom(2 << 20)
    disk.write_bytes(content)
    # O_DIRECT, as is the default; the scratch disk supports it.
    guest = boot_root(
        boot, root_image,
        "-drive", f"id=data,file={disk}", "-device", "virtio-blk-device,drive=data",
        "-drive", f"id=large,file={large_sectors[1]}", "-device", "virtio-blk-device,drive=large",
    )  # fmt: skip
    digest = hashlib.md5(content).hexdigest()
    assert guest.command("md5sum /dev/vdb").split()[0] == digest
    assert (
        guest.command("dd if=/dev/vdb iflag=direct bs=64k 2>/dev/null | md5sum").split()[0]
        == digest
    )
    guest.command("dd if=/dev/vda of=/dev/vdb bs=4k count=256 seek=128 conv=fsync")
    written = root_image.read_bytes()[: 1 << 20]
    now = disk.read_bytes()
    half = 512 << 10
    assert now[:half] == content[:half] and now[3 * half :] == content[3 * half :]
    # The root changes while it is mounted; its tail beyond the superblock area need not.
    assert now[2 * half : 3 * half] == written[half:]
    trim_small_blocks(guest, "vdc")
    end(guest)
    assert fsck(Path(large_sectors[1])) == 0
    assert large_sectors[0].stat().st_blocks * 512 < 64 << 20


def test_a_readonly_drive_is_readonly_in_the_guest(boot: Boot, root_image: Path, tmp_path: Path,
) -> None:  # fmt: skip
    disk = tmp_path / "data.img"
    disk.write_bytes(os.urandom(1 << 20))
    before = disk.read_bytes()
    guest = boot_root(
        boot, root_image, "-drive", f"id=data,file={disk},readonly=on",
        "-device", "virtio-blk-device,drive=data",
    )  # fmt: skip
    assert guest.command("cat /sys/block/vdb/ro").strip() == "1"
    assert (
        guest.command(
            "dd if=/dev/zero of=/dev/vdb bs=512 count=1 2>/dev/null || echo refused"
        ).strip()
        == "refused"
    )
    end(guest)
    assert disk.read_bytes() == before


def test_the_driver_can_leave_and_come_back_under_load(
    boot: Boot, root_image: Path, tmp_path: Path
) -> None:
    disk = tmp_path / "data.img"
    disk.write_bytes(os.urandom(1 << 20))
    guest = boot_root(
        boot, root_image,
        "-drive", f"id=data,file={disk}", "-device", "virtio-blk-device,drive=data",
    )  # fmt: skip
    driver = "/sys/bus/virtio/drivers/virtio_blk"
    for _ in range(3):
        guest.type("dd if=/dev/vdb of=/dev/null bs=4k 2>/dev/null &\n")
        guest.command(f"echo virtio1 >{driver}/unbind; echo virtio1 >{driver}/bind; wait")
    digest = hashlib.md5(disk.read_bytes()).hexdigest()
    assert guest.command("md5sum /dev/vdb").split()[0] == digest
    end(guest)


def test_stop_in_the_middle_of_writing_loses_nothing(
    boot: Boot, root_image: Path, tmp_path: Path
) -> None:
    path = tmp_path / "qmp"
    guest = boot_root(boot, root_image, "-qmp", f"unix:{path},server,nowait")
    with QmpClient(path) as client:
        guest.type(
            "dd if=/dev/urandom of=/root/big bs=4k count=500 conv=fsync 2>/dev/null; "
            "md5sum /root/big; echo done-$?\n"
        )
        for _ in range(10):
            client.cmd("stop")
            client.cmd("cont")
        digest = guest.expect(r"([0-9a-f]{32})  /root/big")[1]
        guest.expect("done-0")
    guest.command("echo 3 >/proc/sys/vm/drop_caches")
    assert guest.command("md5sum /root/big").split()[0].encode() == digest
    end(guest)
    assert fsck(root_image) == 0


def test_every_flushed_byte_survives_the_vmms_sudden_death(boot: Boot, root_image: Path) -> None:
    guest = boot_root(boot, root_image)
    guest.command("echo flushed-before-the-kill >/root/record; sync")
    guest.type("dd if=/dev/zero of=/root/noise bs=4k count=10000 2>/dev/null\n")
    guest._pump(1.0)
    guest.process.kill()
    guest.process.wait()
    shown = subprocess.run(
        ["/sbin/debugfs", "-R", "cat /root/record", str(root_image)], capture_output=True, text=True
    )
    if "flushed-before-the-kill" not in shown.stdout:
        # The inode may still be in the journal: replay it as the next mount would.
        subprocess.run(["/sbin/e2fsck", "-fy", str(root_image)], capture_output=True)
        shown = subprocess.run(
            ["/sbin/debugfs", "-R", "cat /root/record", str(root_image)],
            capture_output=True, text=True,
        )  # fmt: skip
    assert "flushed-before-the-kill" in shown.stdout


def test_an_image_in_use_is_refused(boot: Boot, root_image: Path) -> None:
    guest = boot_root(boot, root_image)
    second = boot(
        "-drive", f"id=rootfs,file={root_image},direct=off",
        "-device", "virtio-blk-device,drive=rootfs",
    )  # fmt: skip
    assert second.wait() == 1
    assert b"the image is in use by another process" in second.errors
    end(guest)


def test_what_the_guest_trims_goes_back_to_the_host(boot: Boot, root_image: Path) -> None:
    guest = boot(
        "-smp", "4", "-drive", f"id=d,file={root_image},direct=off",
        "-device", "virtio-blk-device,drive=d,num-queues=4",
    )  # fmt: skip
    guest.expect("guest: ready in the initramfs")
    guest.expect("# ")
    assert guest.command("ls /sys/block/vda/mq").split() == ["0", "1", "2", "3"]
    guest.command("mkdir -p /mnt; mount -t ext4 /dev/vda /mnt")
    guest.command("dd if=/dev/urandom of=/mnt/big bs=1M count=16 2>/dev/null; sync")
    full = root_image.stat().st_blocks
    guest.command("rm /mnt/big; sync; fstrim /mnt; umount /mnt")
    assert root_image.stat().st_blocks < full - (12 << 20) // 512
    guest.type("poweroff -f\n")
    assert guest.wait() == 0
    subprocess.run(["fsck.ext4", "-fn", str(root_image)], check=True, capture_output=True)
