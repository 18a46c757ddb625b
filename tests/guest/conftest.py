"""Guest fixtures: Debian's stock kernel under stratovirt, inside the lab."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stratovirt_lab import images
from tests.machine_process import MachineProcess

APPEND = "console=ttyS0 quiet panic=1"


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
        pass_fds: tuple[int, ...] = (),
    ) -> MachineProcess:
        machine = MachineProcess(
            "-machine", "microvm", "-kernel", kernel, "-initrd", files.initramfs,
            "-append", f"{APPEND} {append}".strip(), "-serial", serial, *argv, pass_fds=pass_fds,
        )  # fmt: skip
        running.append(machine)
        return machine

    yield start
    for machine in running:
        machine.__exit__(None, None, None)
