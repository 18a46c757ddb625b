"""What management tools ask before and while they run a machine, and how they are answered."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from qemu.qmp.qmp_client import ExecuteError

from tests.board.conftest import Board
from tests.board.virtio_driver import IN, BlkDriver
from tests.machine_process import QmpClient, run_to_end, wait_until
from tests.qmp_schema import Schema

Start = Callable[..., Board]

CPU = f"host-{os.uname().machine}-cpu"

ERRORS = {
    "query-balloon": "No balloon device has been activated",
    "query-sev-capabilities": "SEV feature is not available",
    "query-mem-gpa": "query-mem-gpa: no RAM at 0x1000",
}
"""Queries whose valid answer is an error where there is nothing to ask."""

ARGUMENTS: dict[str, dict[str, object]] = {
    "query-mem-gpa": {"gpa": "0x1000"},
    "qom-list": {"path": "/machine"},
    "qom-get": {"path": "/machine", "property": "type"},
    "device-list-properties": {"typename": "virtio-blk-device"},
    "qom-list-properties": {"typename": "iothread"},
    "trace-get-state": {"name": "*"},
    "human-monitor-command": {"command-line": "info version"},
}


def ask_everything(client: QmpClient) -> dict[str, object]:
    """Every command that only looks, each answer checked against the schema."""
    schema = Schema(client.cmd("query-qmp-schema"))
    names = {entry["name"] for entry in client.cmd("query-commands")}
    assert names == schema.names("command")
    assert {entry["name"] for entry in client.cmd("query-events")} == schema.names("event")
    answers: dict[str, object] = {}
    for name in sorted(names):
        if not name.startswith("query-") and name not in ARGUMENTS:
            continue
        try:
            answers[name] = client.cmd(name, **ARGUMENTS.get(name, {}))
        except ExecuteError as error:
            assert ERRORS.get(name) == str(error), name
            continue
        schema.check_answer(name, answers[name])
    return answers


def test_every_query_of_a_running_machine_answers_as_its_schema_says(
    start_board: Start, tmp_path: Path
) -> None:
    path, image = tmp_path / "qmp", tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    board = start_board(
        "-qmp", f"unix:{path},server,nowait", "-smp", "8,sockets=2,dies=2,cores=2",
        "-object", "memory-backend-ram,id=m0,size=128M", "-numa", "node,memdev=m0,cpus=0-3",
        "-object", "memory-backend-ram,id=m1,size=128M", "-numa", "node,memdev=m1,cpus=4-7",
        "-name", "guest=vm-1", "-drive", f"id=d,file={image},direct=off,readonly=on",
        "-device", "virtio-blk-device,drive=d,id=blk0,serial=s-1",
        "-serial", f"file,path={tmp_path}/log",
    )  # fmt: skip
    board.cpu.write(0x1000, bytes.fromhex("78563412"))
    with QmpClient(path) as client:
        answers = ask_everything(client)
        assert answers["query-mem-gpa"] == "0x12345678"
        assert [(part["size"], part["node"]) for part in client.cmd("query-mem")] == [
            (128 << 20, 0), (128 << 20, 1),
        ]  # fmt: skip
        assert client.cmd("qom-get", path="/machine/peripheral/blk0", property="serial") == "s-1"
        assert client.cmd("qom-get", path="/machine", property="type") == "microvm-machine"
        cpus = client.cmd("query-cpus-fast")
        assert [c["props"]["socket-id"] for c in cpus] == [0, 0, 0, 0, 1, 1, 1, 1]
        assert [c["props"]["die-id"] for c in cpus] == [0, 0, 1, 1, 0, 0, 1, 1]
        assert [c["props"]["node-id"] for c in cpus] == [0, 0, 0, 0, 1, 1, 1, 1]
        (disk,) = client.cmd("query-block")
        assert (disk["device"], disk["qdev"], disk["inserted"]["ro"]) == ("d", "blk0", True)
        assert disk["inserted"]["image"]["virtual-size"] == 1 << 20
        labels = {entry["label"] for entry in client.cmd("query-chardev")}
        assert labels == {"qmp", "serial0"}


def test_the_machine_none_answers_libvirts_probes_without_kvm(tmp_path: Path) -> None:
    path, pidfile = tmp_path / "qmp", tmp_path / "pid"
    done = run_to_end(
        "-S", "-no-user-config", "-nodefaults", "-display", "none", "-machine", "none,accel=kvm",
        "-qmp", f"unix:{path},server=on,wait=off", "-pidfile", str(pidfile), "-daemonize",
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    daemon = Path(f"/proc/{int(pidfile.read_text())}")
    with QmpClient(path) as client:
        assert not any("/dev/kvm" in str(fd.readlink()) for fd in (daemon / "fd").iterdir())
        answers = ask_everything(client)
        assert answers["query-target"] == {"arch": os.uname().machine}
        assert "microvm" in {m["name"] for m in client.cmd("query-machines")}
        assert client.cmd("query-status")["status"] == "prelaunch"
        types = client.cmd("qom-list-types")
        assert {"virtio-blk-device", "iothread", CPU} <= {t["name"] for t in types}
        schema = Schema(client.cmd("query-qmp-schema"))
        for entry in types:
            listed = client.cmd("device-list-properties", typename=entry["name"])
            schema.check_answer("device-list-properties", listed)
        options = client.cmd("query-command-line-options")
        by_name = {o["option"]: {p["name"] for p in o["parameters"]} for o in options}
        assert {"cpus", "maxcpus", "sockets", "threads"} <= by_name["smp"]
        assert {"type", "accel", "mem-share"} <= by_name["machine"]
        client.cmd("quit")
    wait_until(lambda: not daemon.exists(), "the daemon ends")
    assert not path.exists() and not pidfile.exists()


def test_types_can_be_asked_by_what_they_implement(start_board: Start, tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    board = start_board("-qmp", f"unix:{path},server,nowait")
    with QmpClient(path) as client:
        devices = {t["name"] for t in client.cmd("qom-list-types", implements="device")}
        assert "virtio-blk-device" in devices and "iothread" not in devices
        assert CPU in devices
        everything = {t["name"] for t in client.cmd("qom-list-types", abstract=True)}
        assert {"device", "object"} <= everything
        properties = client.cmd("device-list-properties", typename="virtio-blk-device")
        kinds = {entry["name"]: entry["type"] for entry in properties}
        assert kinds["num-queues"] == "int64" and kinds["serial"] == "str"
        with pytest.raises(ExecuteError, match="Class 'e1000' not found"):
            client.cmd("device-list-properties", typename="e1000")
        (smp,) = client.cmd("query-command-line-options", option="smp")
        assert {
            "name": "dies",
            "type": "number",
            "help": "dies in a socket",
            "default": "1",
        } in smp["parameters"]
    assert board.machine.process.poll() is None


def test_disk_statistics_count_what_the_guest_did(start_board: Start, tmp_path: Path) -> None:
    path, image = tmp_path / "qmp", tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    board = start_board(
        "-qmp", f"unix:{path},server,nowait",
        "-drive", f"id=d,file={image},direct=off", "-device", "virtio-blk-device,drive=d",
    )  # fmt: skip
    driver = BlkDriver(board.cpu)
    driver.start()
    assert driver.request(IN, 0, length=4096) == (0, bytes(4096))
    with QmpClient(path) as client:
        before = client.cmd("query-blockstats")[0]["stats"]
        assert before["rd_operations"] == 1 and before["rd_bytes"] == 4096
        client.cmd("stop")
        client.cmd("cont")
        assert client.cmd("query-blockstats")[0]["stats"] == before
