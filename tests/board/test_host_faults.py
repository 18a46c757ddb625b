"""The host fails: an operation, a device's link or a command ends, and never the machine."""

import itertools
import resource
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from qemu.qmp.qmp_client import ExecuteError

from tests.board.conftest import Board
from tests.board.pci_driver import Function, PciDriver
from tests.board.virtio_driver import MmioDriver
from tests.machine_process import PATIENCE, MachineProcess, QmpClient, wait_until
from tests.programs import STRATOVIRT

Start = Callable[..., Board]
BUFFER = 0x20_0000
FRAME = bytes(12) + b"\xff" * 6 + b"\x02\0\0\0\0\x01" + b"\x88\xb5" + bytes(46)
"""struct virtio_net_hdr_v1, and a broadcast of a protocol that nobody speaks."""
LINK_STATUS = 0x106


def run(*command: str) -> None:
    subprocess.run(command, check=True)


@pytest.fixture
def tap() -> Iterator[str]:
    """A tap that is up."""
    name = "svfault0"
    run("ip", "tuntap", "add", name, "mode", "tap")
    run("ip", "link", "set", name, "up")
    yield name
    subprocess.run(("ip", "link", "del", name), capture_output=True)


def alive(client: QmpClient) -> bool:
    return str(client.cmd("query-status")["status"]) == "running"


def test_a_driver_that_starts_on_a_deleted_tap_finds_the_link_down(
    start_board: Start, tap: str, tmp_path: Path
) -> None:
    qmp = tmp_path / "qmp"
    board = start_board(
        "-qmp", f"unix:{qmp},server,nowait", "-netdev", f"tap,id=n,ifname={tap}",
        "-device", "virtio-net-device,netdev=n,id=card",
    )  # fmt: skip
    driver = MmioDriver(board.cpu)
    with QmpClient(qmp) as client:
        driver.bring_up(2)
        assert board.cpu.value(f"readw {driver.base + LINK_STATUS:x}") & 1
        run("ip", "link", "del", tap)
        for _ in range(3):
            driver.bring_up(2)
            wait_until(
                lambda: not board.cpu.value(f"readw {driver.base + LINK_STATUS:x}") & 1, "link down"
            )
            assert driver.get(0x70) == 15, "the device itself is whole"
        client.cmd("system_reset")
        driver.bring_up(2)
        assert alive(client)


def test_completing_on_a_queue_fires_its_vector_and_no_other(start_board: Start, tap: str) -> None:
    board = start_board(
        "-netdev", f"tap,id=n,ifname={tap}",
        "-device", "virtio-net-pci,netdev=n,id=card,bus=pcie.0,addr=1", board="q35",
    )  # fmt: skip
    driver = PciDriver(board.cpu, 1)
    receive, transmit = driver.bring_up(2, size=64)
    for ring in (receive, transmit):
        ring.want_interrupt_after(0)
    board.cpu.write(BUFFER, FRAME)
    transmit.offer(transmit.chain([(BUFFER, len(FRAME), False)]))
    driver.kick(1)
    driver.done(transmit, 1)
    wait_until(lambda: driver.spoke(1), "the vector of the transmit queue")
    assert not driver.spoke(0)
    receive.offer(receive.chain([(BUFFER + 0x1000, 2048, True)]))
    driver.kick(0)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind((tap, 0x88B5))
        wire.send(FRAME[12:])
        wait_until(lambda: driver.spoke(0), "the vector of the receive queue")
    assert not driver.spoke(1)


def test_each_queue_of_a_disk_has_its_own_vector(start_board: Start, tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(4096))
    board = start_board(
        "-drive", f"id=d,file={tmp_path}/disk,direct=off",
        "-device", "virtio-blk-pci,drive=d,bus=pcie.0,addr=1,num-queues=4", board="q35",
    )  # fmt: skip
    driver = PciDriver(board.cpu, 1)
    rings = driver.bring_up(4)
    board.cpu.write(BUFFER, struct.pack("<IIQ", 0, 0, 0))
    for number, ring in enumerate(rings):
        ring.want_interrupt_after(0)
        chain = [(BUFFER, 16, False), (BUFFER + 0x1000, 512, True), (BUFFER + 0x2000, 1, True)]
        ring.offer(ring.chain(chain))
        driver.kick(number)
        wait_until(lambda number=number: driver.spoke(number), f"vector {number}")  # type: ignore[misc]
        assert not any(driver.spoke(other) for other in range(4))


def test_a_reset_amid_interrupts_without_messages_ends_nothing(start_board: Start) -> None:
    board = start_board(
        "-object", "rng-random,id=r,filename=/dev/zero",
        "-device", "virtio-rng-pci,rng=r,bus=pcie.0,addr=1", board="q35",
    )  # fmt: skip
    driver = PciDriver(board.cpu, 1)
    for _ in range(150):
        (ring,) = driver.bring_up(msix=False)
        ring.offer(ring.chain([(BUFFER, 64, True)]))
        driver.kick()
        driver.set(0x14, 0, 1)
    assert board.machine.process.poll() is None


def test_descriptors_that_run_out_fail_the_command_and_leave_nothing(
    start_board: Start, tmp_path: Path
) -> None:
    qmp, image = tmp_path / "qmp", tmp_path / "disk"
    image.write_bytes(bytes(1 << 20))
    board = start_board(
        "-qmp", f"unix:{qmp},server,nowait",
        "-device", "pcie-root-port,id=port,bus=pcie.0,addr=1,port=1", board="q35",
    )  # fmt: skip
    pid = board.machine.process.pid
    node: dict[str, object] = {
        "node-name": "n", "file": {"filename": str(image)}, "cache": {"direct": False},
    }  # fmt: skip
    with QmpClient(qmp) as client:
        client.cmd("query-status")
        hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
        held = sorted(int(fd.name) for fd in Path(f"/proc/{pid}/fd").iterdir())
        device = {"id": "d", "driver": "virtio-blk-pci", "bus": "port", "drive": "n"}
        added = done = False
        for room in itertools.count():
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (held[-1] + 1 + room, hard))
            try:
                if not added:
                    client.cmd("blockdev-add", **node)
                    added = True
                client.cmd("device_add", **device, **{"num-queues": 4})
                done = True
            except ExecuteError:
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
                assert alive(client)
                left = len(list(Path(f"/proc/{pid}/fd").iterdir()))
                assert left - len(held) == int(added), "a failed command keeps nothing open"
            if done:
                break
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
        assert room > 3 and alive(client)
        assert Function(board.cpu, 1).get(0) != 0xFFFF_FFFF


def test_a_client_that_cannot_be_accepted_is_waited_for(start_board: Start, tmp_path: Path) -> None:
    qmp = tmp_path / "qmp"
    board = start_board("-qmp", f"unix:{qmp},server,nowait", "-disable-seccomp")
    pid = board.machine.process.pid

    def held() -> set[int]:
        return {int(fd.name) for fd in Path(f"/proc/{pid}/fd").iterdir()}

    with QmpClient(qmp) as client:
        client.cmd("query-status")
        before = held()
    wait_until(lambda: len(held()) < len(before), "the client has been let go")
    hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
    lowest_free = next(fd for fd in itertools.count() if fd not in held())
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest_free, hard))
    with socket.socket(socket.AF_UNIX) as another:
        another.connect(str(qmp))
        time.sleep(1.5)
        board.machine._drain()
        assert 1 <= board.machine.errors.count(b"could not be accepted") <= 3
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
        another.settimeout(10)
        assert b"QMP" in another.recv(4096)


def test_texts_and_numbers_that_json_cannot_mean_are_errors(
    start_board: Start, tmp_path: Path
) -> None:
    qmp = tmp_path / "qmp"
    start_board("-qmp", f"unix:{qmp},server,nowait", "-disable-seccomp")
    wait_until(qmp.exists, "the socket")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(qmp))
        stream = client.makefile("rw", newline="\n")
        assert "QMP" in stream.readline()
        for request in (
            r'{"execute": "blockdev-add", "arguments": {"node-name": "n", "file": '
            r'{"filename": "/\ud800"}}}',
            r'{"execute": "query-status", "id": 1e400}',
            r'{"execute": "query-status", "id": NaN}',
        ):
            stream.write(request + "\n")
            stream.flush()
            assert '"GenericError"' in stream.readline(), request
        stream.write('{"execute": "query-status", "id": 1.5}\n')
        stream.flush()
        assert '"id": 1.5' in stream.readline()


def limited(nofile: str, *argv: str) -> tuple[str, ...]:
    """The arguments of prlimit(1) to start a q35 with."""
    return (f"--nofile={nofile}", STRATOVIRT, "-machine", "q35", "-accel", "test", *argv)


def test_as_many_descriptors_are_used_as_the_host_allows(tmp_path: Path) -> None:
    disks: list[str] = []
    for number in range(16):
        image = tmp_path / f"disk{number}"
        image.write_bytes(bytes(4096))
        place = f"bus=pcie.0,addr={number + 1:#x},num-queues=32"
        disks += ["-drive", f"id=d{number},file={image},direct=off"]
        disks += ["-device", f"virtio-blk-pci,drive=d{number},{place}"]
    qmp = tmp_path / "qmp"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "cpu"))
        listener.listen(1)
        listener.settimeout(PATIENCE)
        disks += ["-mod-test", f"unix:{tmp_path}/cpu", "-qmp", f"unix:{qmp},server,nowait"]
        with MachineProcess(*limited("1024:4096", *disks), program="prlimit"):
            processor, _ = listener.accept()
            with processor, QmpClient(qmp) as client:
                assert alive(client) and len(client.cmd("query-block")) == 16
        few = subprocess.run(
            ["prlimit", *limited("256:256", *disks)], capture_output=True, text=True, check=False
        )
    assert few.returncode == 1
    assert few.stderr.count("\n") == 1 and "ulimit -Hn" in few.stderr, few.stderr
