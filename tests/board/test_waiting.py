"""What is opened or connected may keep its opener waiting, and the machine waits for nobody."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.board.conftest import Board
from tests.machine_process import PATIENCE, QmpClient, wait_until

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
