"""A stock Debian kernel boots to its init, in every form and with every number of vCPUs."""

import hashlib
from pathlib import Path

import pytest

from tests.guest.conftest import Boot, GuestFiles, Tools
from tests.machine_process import QmpClient

READY = "guest: ready in the initramfs"


@pytest.mark.parametrize("form", ["kernel", "vmlinux", "raw_image"])
def test_each_form_of_the_kernel_boots(boot: Boot, files: type[GuestFiles], form: str) -> None:
    guest = boot("-m", "512", kernel=getattr(files, form))
    guest.expect(READY)
    guest.expect("# ")
    assert "Debian" in guest.command("uname -v")
    guest.type("poweroff -f\n")
    assert guest.wait() == 0


def test_the_guest_sees_the_cpus_and_memory_of_its_command_line(boot: Boot) -> None:
    guest = boot("-smp", "4,sockets=1,cores=2,threads=2", "-m", "1G")
    guest.expect(READY)
    guest.expect("# ")
    assert guest.command("nproc").strip() == "4"
    topology = "/sys/devices/system/cpu/cpu*/topology"
    packages = guest.command(f"cat {topology}/physical_package_id | sort -u").split()
    assert len(packages) == 1
    siblings = guest.command("cat /sys/devices/system/cpu/cpu0/topology/thread_siblings_list")
    assert siblings.strip() == "0-1"
    # The host's CPU by name, as in QEMU and StratoVirt.
    name = guest.command("grep -m1 'model name' /proc/cpuinfo").partition(": ")[2].strip()
    assert f": {name}\n" in Path("/proc/cpuinfo").read_text()
    kib = int(guest.command("grep MemTotal /proc/meminfo").split()[1])
    assert 0.9 * (1 << 20) < kib < 1 << 20
    guest.type("poweroff -f\n")
    assert guest.wait() == 0


def test_the_tables_the_guest_found_pass_iasl_and_its_own_checks(
    boot: Boot, root_image: Path
) -> None:
    guest = boot(
        "-drive", f"id=d,file={root_image},direct=off", "-device", "virtio-blk-device,drive=d"
    )
    guest.expect(READY)
    guest.expect("# ")
    for table in ("FACP", "APIC", "DSDT"):
        size = int(guest.command(f"stat -c %s /sys/firmware/acpi/tables/{table}"))
        assert size > 0
    assert (
        guest.command("dmesg | grep -ciE 'ACPI.*(error|warning|BIOS bug)' || true").strip() == "0"
    )
    assert "kvm-clock" in guest.command(
        "cat /sys/devices/system/clocksource/clocksource0/available_clocksource"
    )
    guest.type("poweroff -f\n")
    assert guest.wait() == 0


def test_the_console_carries_typing_and_long_output_both_ways(boot: Boot) -> None:
    guest = boot()
    guest.expect(READY)
    guest.expect("# ")
    line = "".join(chr(97 + i % 26) for i in range(300))
    assert guest.command(f"echo {line}").strip().endswith(line)
    text = guest.command("seq 1 400")
    assert text.split()[-400:] == [str(number) for number in range(1, 401)]
    guest.type("poweroff -f\n")
    assert guest.wait() == 0


@pytest.mark.parametrize(
    ("command", "reason"), [("poweroff -f", "guest-shutdown"), ("reboot -f", "guest-reset")]
)
def test_the_guests_own_end_is_reported(
    boot: Boot, tmp_path: Path, command: str, reason: str
) -> None:
    path = tmp_path / "qmp"
    guest = boot("-qmp", f"unix:{path},server,nowait")
    with QmpClient(path) as client:
        guest.expect(READY)
        guest.expect("# ")
        guest.type(f"{command}\n")
        event = client.wait_event("SHUTDOWN")
        assert event["data"] == {"guest": True, "reason": reason}
    assert guest.wait() == 0
    assert not path.exists()


def test_a_kernel_panic_ends_the_machine(boot: Boot) -> None:
    guest = boot(append="rdinit=/nonexistent root=/dev/none panic=-1")
    guest.expect("Kernel panic")
    assert guest.wait() == 0


def test_stop_freezes_the_guest_and_cont_lets_it_go_on(boot: Boot, tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    guest = boot("-smp", "2", "-qmp", f"unix:{path},server,nowait")
    with QmpClient(path) as client:
        guest.expect(READY)
        guest.expect("# ")
        guest.type("while true; do echo tick; usleep 50000; done\n")
        guest.expect("tick\r\ntick")
        for _ in range(3):
            client.cmd("stop")
            guest._pump(1.0)
            guest._drain()
            before = len(guest.console)
            guest._pump(1.0)
            assert len(guest.console) == before
            client.cmd("cont")
            guest._mark = before
            guest.expect("tick\r\ntick")
        client.cmd("quit")
    assert guest.wait() == 0


def test_a_kexecd_kernel_finds_every_device_again(
    boot: Boot, tools: type[Tools], root_image: Path
) -> None:
    guest = boot(
        "-m", "1G", *tools.options,
        "-drive", f"id=d,file={root_image},direct=off", "-device", "virtio-blk-device,drive=d",
        "-object", "rng-random,id=r", "-device", "virtio-rng-device,rng=r",
        "-device", "virtio-balloon-device",
    )  # fmt: skip
    guest.expect(READY)
    guest.expect("# ")
    tools.mount(guest)
    guest.command("chroot /tools kexec -s -l /boot/vmlinuz --initrd=/boot/initrd --reuse-cmdline")
    # Requests are in flight when the old kernel goes.
    guest.type("dd if=/dev/vdb of=/dev/null bs=4k 2>/dev/null & chroot /tools kexec -e\n")
    guest.expect(READY)
    guest.expect("# ")
    assert guest.command("ls /sys/bus/virtio/drivers/*/virtio* -d | wc -l").strip() == "4"
    digest = hashlib.md5(root_image.read_bytes()).hexdigest()
    assert guest.command("md5sum /dev/vdb").split()[0] == digest
    assert len(guest.command("dd if=/dev/hwrng bs=16 count=1 2>/dev/null | xxd -p").strip()) == 32
    guest.type("poweroff -f\n")
    assert guest.wait() == 0
