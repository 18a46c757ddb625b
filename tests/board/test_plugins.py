"""Drivers of other packages: found by their entry points, listed, and served like our own."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from qemu.qmp.qmp_client import ExecuteError

from tests.board.conftest import Board
from tests.board.pci_driver import PciDriver
from tests.board.virtio_driver import MmioDriver
from tests.kvm.test_snapshot import save
from tests.machine_process import MachineProcess, QmpClient, run_to_end
from tests.ring import DriverRing

Start = Callable[..., Board]
EXAMPLE = Path(__file__).parents[2] / "examples/kv"
REQUEST, ANSWER = 0x20_0000, 0x21_0000

YIELDING = """
import os

from stratovirt.config.driver import DeviceOptions, over_mmio_and_pci
from stratovirt.virtio.python_device import PythonDevice


class Options(DeviceOptions):
    \"\"\"Gives the processor to others.\"\"\"

    id = None


class Device(PythonDevice):
    device_id = 62
    queue_sizes = (8,)

    def handle(self, _queue, chain):
        os.sched_yield()
        chain.write(b"ok")
        return True


DRIVERS = over_mmio_and_pci(
    "virtio-yield", Options, lambda _options, host: Device(host.loop), device_id=62, calls={calls}
)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which pip has installed the example."""
    folder, source = tmp_path_factory.mktemp("packages"), tmp_path_factory.mktemp("source") / "kv"
    # setuptools builds in the source's folder.
    subprocess.run(["cp", "-r", EXAMPLE, source], check=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
         "--no-deps", "--no-build-isolation", "--no-index", "--target", folder, source],
        check=True,
    )  # fmt: skip
    return folder


@pytest.fixture
def example(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example is a package that every process of the test can import."""
    monkeypatch.setenv("PYTHONPATH", str(installed))


def add_package(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: str) -> None:
    """Lay a package with one entry point out as an installer would."""
    module = name.replace("-", "_") + "_module"
    (folder / f"{module}.py").write_text(code)
    facts = folder / f"{module}-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(f"[stratovirt.devices]\n{name} = {module}\n")
    monkeypatch.setenv("PYTHONPATH", str(folder))


def ask(driver: MmioDriver | PciDriver, ring: DriverRing, request: bytes, count: int) -> bytes:
    """The device's answer to request number `count`."""
    driver.cpu.write(REQUEST, request)
    ring.want_interrupt_after(count - 1)
    ring.offer(ring.chain([(REQUEST, len(request), False), (ANSWER, 64, True)]))
    if isinstance(driver, PciDriver):
        driver.kick()
    else:
        driver.set(0x50, 0)
    driver.done(ring, count)
    return driver.cpu.read(ANSWER, ring.used_element(count - 1)[1])


def check_store(driver: MmioDriver | PciDriver) -> None:
    """Use the store as a guest's driver would; it takes two keys."""
    (ring,) = driver.bring_up(1)
    assert ask(driver, ring, b"colour", 1) == b"\1"
    assert ask(driver, ring, b"colour=red", 2) == b"\0"
    assert ask(driver, ring, b"shape=round", 3) == b"\0"
    assert ask(driver, ring, b"size=big", 4) == b"\1"
    assert ask(driver, ring, b"colour=blue", 5) == b"\0"
    assert ask(driver, ring, b"colour", 6) == b"\0blue"


@pytest.mark.usefixtures("example")
def test_a_packages_device_works_over_mmio(start_board: Start) -> None:
    board = start_board("-device", "virtio-kv-device,keys=2")
    driver = MmioDriver(board.cpu)
    assert driver.get(0x08) == 63
    check_store(driver)


@pytest.mark.usefixtures("example")
def test_a_packages_device_works_over_pci(start_board: Start) -> None:
    board = start_board("-device", "virtio-kv-pci,keys=2,bus=pcie.0,addr=0x1", board="q35")
    driver = PciDriver(board.cpu, 1)
    assert driver.function.get(0, 4) >> 16 == 0x1040 + 63
    check_store(driver)


@pytest.mark.usefixtures("example")
def test_a_packages_device_is_in_a_snapshot(start_board: Start, tmp_path: Path) -> None:
    argv = ("-device", "virtio-kv-device", "-qmp")
    board = start_board(*argv, f"unix:{tmp_path}/qmp,server,nowait")
    driver = MmioDriver(board.cpu)
    (ring,) = driver.bring_up(1)
    assert ask(driver, ring, b"colour=red", 1) == b"\0"
    with QmpClient(tmp_path / "qmp") as client:
        client.cmd("stop")
        assert save(client, tmp_path / "saved")["status"] == "completed"
    incoming = ("-incoming", f"file:{tmp_path}/saved")
    clone = start_board(*argv, f"unix:{tmp_path}/clone,server,nowait", *incoming)
    driver.cpu = ring.memory = clone.cpu
    assert ask(driver, ring, b"colour", 2) == b"\0red"


@pytest.mark.usefixtures("example")
def test_a_packages_options_are_in_the_help() -> None:
    text = run_to_end("-help").stdout
    assert "-device virtio-kv-pci" in text and "keys at most" in text


def check_listed(client: QmpClient) -> None:
    types = {entry["name"] for entry in client.cmd("qom-list-types", implements="device")}
    assert {"virtio-kv-device", "virtio-kv-pci", "virtio-blk-pci"} <= types
    properties = client.cmd("device-list-properties", typename="virtio-kv-pci")
    keys = next(entry for entry in properties if entry["name"] == "keys")
    assert keys == {
        "name": "keys", "type": "int64", "description": "keys at most", "default-value": 64,
    }  # fmt: skip


@pytest.mark.usefixtures("example")
def test_a_packages_options_are_listed_without_a_machine(tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    with MachineProcess("-machine", "none", "-qmp", f"unix:{path},server,nowait"):
        with QmpClient(path) as client:
            check_listed(client)


@pytest.mark.usefixtures("example")
def test_a_locked_down_machine_lists_the_packages_that_it_uses(
    start_board: Start, tmp_path: Path
) -> None:
    start_board("-device", "virtio-kv-device", "-qmp", f"unix:{tmp_path}/qmp,server,nowait")
    with QmpClient(tmp_path / "qmp") as client:
        check_listed(client)
        with pytest.raises(ExecuteError, match="unknown driver"):
            client.cmd("device_add", driver="virtio-kv-device", id="kv")


@pytest.mark.needs_filter
def test_a_package_that_a_locked_down_machine_does_not_use_cannot_end_it(
    start_board: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Run in the machine or its broker, this leaves a trace in the folder.
    mark = tmp_path / "it-ran"
    add_package(tmp_path, monkeypatch, "virtio-odd", f"open({str(mark)!r}, 'w')\n1 / 0")
    start_board("-qmp", f"unix:{tmp_path}/qmp,server,nowait")
    with QmpClient(tmp_path / "qmp") as client:
        for name in ("virtio-odd-device", "e1000"):
            with pytest.raises(ExecuteError, match="unknown driver"):
                client.cmd("device_add", driver=name, id="odd")
        types = {entry["name"] for entry in client.cmd("qom-list-types", implements="device")}
        assert "virtio-blk-pci" in types and client.cmd("query-status")["running"]
    assert not mark.exists()


@pytest.mark.usefixtures("example")
def test_a_start_with_our_own_devices_does_not_look_at_packages() -> None:
    code = (
        "import sys; from stratovirt.config.command_line import parse_command_line; "
        "parse_command_line(sys.argv[1:]); print('importlib.metadata' in sys.modules)"
    )
    for device, looks in (("virtio-balloon-device", "False"), ("virtio-kv-device", "True")):
        done = subprocess.run(
            [sys.executable, "-c", code, "-kernel", "x", "-device", device],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.strip() == looks, device


@pytest.mark.usefixtures("example")
def test_a_mistake_names_what_the_package_allows() -> None:
    done = run_to_end("-accel", "test", "-device", "virtio-kv-device,keys=0")
    assert done.returncode == 1
    assert done.stderr == (
        "stratovirt: -device virtio-kv-device,keys=0: keys must be a number from 1 to 1024, "
        "not '0'\n"
    )


@pytest.mark.parametrize(
    "code, reason",
    [
        ("import nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("(", "SyntaxError: '(' was never closed (virtio_odd_module.py, line 1)"),
    ],
)
def test_a_package_that_cannot_be_imported_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, reason: str
) -> None:
    add_package(tmp_path, monkeypatch, "virtio-odd", code)
    done = run_to_end("-accel", "test", "-device", "virtio-odd-device")
    assert done.returncode == 1
    assert done.stderr == (
        f"stratovirt: -device: the driver module virtio_odd_module cannot be used: {reason}\n"
    )
    assert "known are" in run_to_end("-accel", "test", "-device", "e1000").stderr
    assert "virtio-blk-device" in run_to_end("-help").stdout


def start_yielding(start_board: Start) -> tuple[Board, MmioDriver]:
    board = start_board("-device", "virtio-yield-device")
    return board, MmioDriver(board.cpu)


@pytest.mark.needs_filter
def test_a_declared_system_call_is_allowed_and_logged(
    start_board: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_package(tmp_path, monkeypatch, "virtio-yield", YIELDING.format(calls='("sched_yield",)'))
    board, driver = start_yielding(start_board)
    (ring,) = driver.bring_up(1)
    assert ask(driver, ring, b"?", 1) == b"ok"
    assert board.machine.terminate() == 0
    text = b"-device virtio-yield-device: the filter allows sched_yield, which its driver declares"
    assert text in board.machine.errors


@pytest.mark.needs_filter
def test_a_system_call_that_is_not_declared_ends_the_machine(
    start_board: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_package(tmp_path, monkeypatch, "virtio-yield", YIELDING.format(calls="()"))
    board, driver = start_yielding(start_board)
    (ring,) = driver.bring_up(1)
    ring.offer(ring.chain([(ANSWER, 64, True)]))
    driver.set(0x50, 0)
    assert board.machine.wait() != 0
    assert b"sched_yield" in board.machine.errors


@pytest.mark.needs_filter
@pytest.mark.parametrize(
    "call, reason",
    [
        ("ioctl", "which the filter allows under conditions only; no driver may widen them"),
        ("no_such_call", "which does not exist"),
    ],
)
def test_a_declared_system_call_that_cannot_be_allowed_ends_the_start(
    start_board: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, reason: str
) -> None:
    add_package(tmp_path, monkeypatch, "virtio-yield", YIELDING.format(calls=f'("{call}",)'))
    board, _ = start_yielding(start_board)
    assert board.machine.wait() == 1
    text = f"-device virtio-yield-device: its driver declares the system call {call}, {reason}"
    assert text.encode() in board.machine.errors
