"""The static executables of `make dist`: what needs no Python and no other file runs a guest."""

import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from stratovirt import __version__
from tests.machine_process import MachineProcess, QmpClient
from tests.payload import POWER_OFF, SPIN, say, write_kernel

DIST = Path(__file__).parents[2] / "dist"
KVM, NULL = os.makedev(10, 232), os.makedev(1, 3)


@pytest.fixture
def root() -> Iterator[Path]:
    """An empty root directory but for the executable and two devices."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "dev").mkdir()
        for device, number in (("kvm", KVM), ("null", NULL)):
            os.mknod(folder / "dev" / device, 0o600 | stat.S_IFCHR, number)
        shutil.copy(DIST / "stratovirt", folder)
        yield folder


@pytest.mark.parametrize("program", ["stratovirt", "ozone"])
def test_an_executable_needs_no_loader_and_no_library(program: str) -> None:
    command = ["readelf", "--wide", "--program-headers", "--dynamic", str(DIST / program)]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "INTERP" not in shown and "NEEDED" not in shown


def test_no_file_is_opened_to_import(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    command = [
        "strace",
        "-f",
        "-e",
        "trace=open,openat,openat2",
        "-o",
        str(trace),
        str(DIST / "stratovirt"),
    ]
    env = {"PYTHONPATH": str(tmp_path), "PYTHONHOME": "/nowhere", "PYTHONVERBOSE": "1"}
    done = subprocess.run([*command, "-version"], env=env, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"StratoVirt {__version__}\n", "")
    # The C library's time zone is the one file.
    assert set(re.findall(r'"([^"]*)"', trace.read_text())) <= {"/etc/localtime"}


def test_the_hosts_name_services_are_not_loaded(tmp_path: Path) -> None:
    services, trace = tmp_path / "nsswitch.conf", tmp_path / "trace"
    services.write_text("hosts: hesiod compat files dns\n")
    qmp = "tcp:nowhere.invalid:4999,server,nowait"
    script = (
        f"mount --bind {services} /etc/nsswitch.conf && exec strace -f -e trace=open,openat "
        f"-o {trace} {DIST}/stratovirt -machine none -qmp {qmp}"
    )
    command = ["unshare", "--mount", "sh", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "nowhere.invalid" in done.stderr
    opened = re.findall(r'"([^"]*)"', trace.read_text())
    assert "/etc/hosts" in opened
    assert [path for path in opened if ".so" in path] == []


def test_a_guest_runs_in_an_empty_root(root: Path) -> None:
    kernel = write_kernel(root, say("here\n") + POWER_OFF + SPIN)
    with MachineProcess(
        str(root), "/stratovirt", "-machine", "microvm", "-m", "256", "-kernel", f"/{kernel.name}",
        "-serial", "stdio", program="chroot",
    ) as machine:  # fmt: skip
        machine.expect("here")
        assert machine.wait() == 0


def test_a_monitor_serves_where_no_module_is_a_file(root: Path) -> None:
    kernel = write_kernel(root, say("here\n") + SPIN)
    (root / "disk").write_bytes(bytes(1 << 20))
    with MachineProcess(
        str(root), "/stratovirt", "-machine", "q35", "-m", "256", "-kernel", f"/{kernel.name}",
        "-device", "pcie-root-port,port=0x0,addr=0x1.0x0,bus=pcie.0,id=port",
        "-qmp", "unix:/qmp,server,nowait", "-serial", "stdio", program="chroot",
    ) as machine:  # fmt: skip
        machine.expect("here")
        with QmpClient(root / "qmp", listed=False) as client:
            # Each of them is in a module that the machine loads after the filter is in force.
            drivers = {entry["name"] for entry in client.cmd("qom-list-types")}
            assert {"virtio-blk-pci", "virtio-net-device", "vfio-pci"} <= drivers
            node = {"node-name": "d", "file": {"driver": "file", "filename": "/disk"}}
            client.cmd("blockdev-add", **node)
            client.cmd(
                "device_add", driver="virtio-blk-pci", id="d", drive="d", bus="port", addr="0x0"
            )
            client.cmd("quit")
            assert machine.wait() == 0


def test_the_jail_of_a_static_executable_has_nothing_but_it() -> None:
    from ozone.view import view_for

    view = view_for(str(DIST / "stratovirt"))
    assert [path for path, _ in view.shown] == [str(DIST / "stratovirt")]
