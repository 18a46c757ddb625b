"""What is opened or connected may keep its opener waiting, and the machine waits for nobody."""

import json
import os
import select
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from qemu.qmp.qmp_client import ExecuteError

from tests.board.conftest import Board
from tests.board.test_chardevs import connect
from tests.machine_process import PATIENCE, MachineProcess, QmpClient, run_to_end, wait_until
from tests.payload import SPIN, write_kernel

Start = Callable[..., Board]
SYN_SENT = "02"


def connecting(port: int) -> int:
    """How many connections to a port of this host are under way (proc(5), /proc/net/tcp)."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(line.split()[2:4] == [f"0100007F:{port:04X}", SYN_SENT] for line in lines)


@pytest.mark.parametrize("has_broker", [True, False])
def test_a_chardev_whose_host_does_not_answer_holds_up_nobody(
    start_board: Start, tmp_path: Path, has_broker: bool
) -> None:
    # What comes to a listener whose queue is full is dropped: connecting takes for ever.
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        listener.settimeout(PATIENCE)
        port = listener.getsockname()[1]
        board = start_board(
            "-qmp", f"unix:{tmp_path}/qmp,server,nowait",
            "-serial", f"socket,host=127.0.0.1,port={port},reconnect=1",
            *(() if has_broker else ("-disable-seccomp",)),
        )  # fmt: skip
        first, _ = listener.accept()
        with QmpClient(tmp_path / "qmp") as client:
            fillers = [socket.socket() for _ in range(3)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
            others = connecting(port)
            assert others
            first.close()
            wait_until(lambda: connecting(port) > others, "the machine tries to connect")
            assert client.cmd("query-status")["running"]
            assert connecting(port) > others, "it was answered meanwhile"
        assert board.machine.terminate() == 0
        for filler in fillers:
            filler.close()


def test_a_back_end_that_is_silent_holds_up_its_own_client_only(
    start_board: Start, tmp_path: Path
) -> None:
    monitors: list[str] = []
    for name in ("one", "two"):
        monitors += ["-chardev", f"socket,id={name},path={tmp_path}/{name},server=on,wait=off"]
        monitors += ["-mon", name]
    board = start_board(*monitors, board="q35,mem-share=on")
    address = {"type": "unix", "data": {"path": f"{tmp_path}/peer"}}
    backend = {"type": "socket", "data": {"addr": address, "server": False}}
    netdev = {"type": "vhost-user", "id": "n", "chardev": "c"}
    with (
        socket.socket(socket.AF_UNIX) as back_end,
        connect(tmp_path / "one") as slow,
        QmpClient(tmp_path / "two") as client,
    ):
        back_end.bind(f"{tmp_path}/peer")
        back_end.listen(1)
        back_end.settimeout(PATIENCE)
        client.cmd("chardev-add", id="c", backend=backend)
        answers = slow.makefile("r")
        assert "QMP" in answers.readline()
        for turn in range(2):
            asked = [{"execute": "netdev_add", "arguments": netdev, "id": turn}]
            asked += [{"execute": "query-status", "id": "after"}]
            slow.sendall("\n".join(map(json.dumps, asked)).encode())
            peer, _ = back_end.accept()
            assert client.cmd("query-status")["running"], "it waits for nobody"
            with pytest.raises(ExecuteError, match="another netdev has the id n"):
                client.cmd("netdev_add", **netdev)
            with pytest.raises(ExecuteError, match="in use by n"):
                client.cmd("chardev-remove", id="c")
            assert not select.select([slow], [], [], 0)[0], "it is not answered yet"
            peer.close()
            refused, after = (json.loads(answers.readline()) for _ in range(2))
            assert refused["id"] == turn and "cannot use the back end" in refused["error"]["desc"]
            assert after["id"] == "after"
        # Whoever has left hears nothing more, and the next client's answers are its own.
        slow.sendall(json.dumps(asked[0]).encode())
        peer, _ = back_end.accept()
        answers.close()
        slow.close()
        with connect(tmp_path / "one") as another, another.makefile("r") as lines:
            assert "QMP" in lines.readline()
            another.sendall(b'{"execute": "query-status", "id": "mine"}')
            peer.close()
            assert json.loads(lines.readline())["id"] == "mine"
            another.sendall(json.dumps(asked[0]).encode())
            peer, _ = back_end.accept()
            assert board.machine.terminate() == 0, "a signal does not wait either"
            peer.close()
    assert b"rror" not in board.machine.errors


FIFOS = {
    "kernel": ("-kernel", "FIFO"),
    "initrd": ("-kernel", "KERNEL", "-initrd", "FIFO"),
    "image": ("-drive", "id=d,file=FIFO,readonly=on", "-device", "virtio-blk-device,drive=d"),
    "flash": ("-drive", "if=pflash,unit=0,file=FIFO,readonly=on"),
    "writable flash": ("-drive", "if=pflash,unit=0,file=FIFO"),
    "log": ("-D", "FIFO"),
    "pidfile": ("-pidfile", "FIFO"),
    "chardev": ("-serial", "file,path=FIFO"),
    "memory": ("-mem-path", "FIFO"),
    "entropy": ("-object", "rng-random,id=r,filename=FIFO", "-device", "virtio-rng-device,rng=r"),
    "snapshot": ("-incoming", "file:FIFO"),
}


@pytest.mark.parametrize("what", FIFOS)
def test_a_fifo_that_nobody_holds_is_refused_in_one_line(tmp_path: Path, what: str) -> None:
    fifo, kernel = tmp_path / "fifo", write_kernel(tmp_path, SPIN)
    os.mkfifo(fifo)
    argv = [word.replace("FIFO", str(fifo)).replace("KERNEL", str(kernel)) for word in FIFOS[what]]
    board = "q35" if "flash" in what else "microvm"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "cpu"))
        listener.listen(1)
        done = run_to_end(
            "-machine", board, "-accel", "test", "-mod-test", f"unix:{tmp_path}/cpu", *argv
        )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and str(fifo) in done.stderr, done.stderr


def test_a_fifo_as_list_of_trace_events_is_read_as_far_as_it_is_written(tmp_path: Path) -> None:
    fifo, qmp = tmp_path / "fifo", tmp_path / "qmp"
    os.mkfifo(fifo)
    argv = ("-machine", "none", "-trace", f"events={fifo}", "-qmp", f"unix:{qmp},server,nowait")
    with MachineProcess(*argv) as machine, QmpClient(qmp) as client:
        assert client.cmd("query-status")["running"]
        assert machine.terminate() == 0
