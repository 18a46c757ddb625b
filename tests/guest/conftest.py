"""Guest fixtures: Debian's stock kernel under stratovirt, inside the lab."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stratovirt_lab import images
from stratovirt_lab.architectures import of_this_host
from tests.machine_process import MachineProcess

APPEND = f"console={of_this_host().console} quiet panic=1"

PASSED = "STRATOVIRT_PASSED"
"""The variable that names a file of tests that have passed: they are not made again when the lab
has died in the middle of the others."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what has passed in an earlier attempt."""
    passed = Path(os.environ.get(PASSED, "/nonexistent"))
    done = set(passed.read_text().splitlines()) if passed.exists() else set()
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in done])
    items[:] = [item for item in items if item.nodeid not in done]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note what has passed, at once."""
    if PASSED in os.environ and report.when == "call" and report.passed:
        with open(os.environ[PASSED], "a", encoding="utf-8") as passed:
            passed.write(f"{report.nodeid}\n")


class GuestFiles:
    """The files guests boot from; building them needs nothing that the host has not cached."""

    kernel = str(images.guest_kernel())
    vmlinux = str(images.guest_vmlinux())
    raw_image = str(images.guest_raw_image())
    initramfs = str(images.guest_initramfs())


@pytest.fixture(scope="session")
def files() -> type[GuestFiles]:
    """Kernels in three forms and the initramfs."""
    return GuestFiles


@pytest.fixture
def root_image(tmp_path: Path) -> Path:
    """A fresh copy of the ext4 root, on the lab's scratch disk."""
    return Path(shutil.copy(images.guest_root(), tmp_path / "root.img"))


@pytest.fixture
def netns() -> Iterator[Path]:
    """A network namespace of the lab."""
    subprocess.run(["ip", "netns", "add", "mynet"], check=True)
    yield Path("/var/run/netns/mynet")
    subprocess.run(["ip", "netns", "del", "mynet"], check=True)


Boot = Callable[..., MachineProcess]


@pytest.fixture
def boot(files: type[GuestFiles]) -> Iterator[Boot]:
    """Start a guest with its console on `serial`; killed at the end of the test."""
    running: list[MachineProcess] = []

    def start(
        *argv: str,
        kernel: str = files.kernel,
        append: str = "",
        serial: str = "stdio",
        board: str = "microvm",
        pass_fds: tuple[int, ...] = (),
    ) -> MachineProcess:
        machine = MachineProcess(
            *(("-machine", board) if board else ()), "-kernel", kernel, "-initrd", files.initramfs,
            "-append", f"{APPEND} {append}".strip(), "-serial", serial, *argv, pass_fds=pass_fds,
        )  # fmt: skip
        running.append(machine)
        return machine

    yield start
    for machine in running:
        machine.__exit__(None, None, None)


class Tools:
    """fio, iperf3, ethtool and kexec on a disk of their own."""

    drive = f"id=tools,file={images.guest_tools()},direct=off,readonly=on"
    options = ("-drive", drive, "-device", "virtio-blk-device,drive=tools,serial=guest-tools")

    @staticmethod
    def mount(guest: MachineProcess) -> None:
        """Make `chroot /tools NAME` work in the guest's initramfs."""
        guest.command(images.MOUNT_TOOLS)


@pytest.fixture(scope="session")
def tools() -> type[Tools]:
    """Programs that busybox does not have."""
    return Tools


@pytest.fixture
def ready(boot: Boot) -> Boot:
    """Start a guest and wait for the shell of its initramfs."""

    def start(*argv: str, **options: Any) -> MachineProcess:
        guest = boot(*argv, **options)
        guest.expect("guest: ready in the initramfs")
        guest.expect("# ")
        return guest

    return start
