"""Each turn of the loop does a bounded amount for one device, and the others have theirs."""

import socket
import threading
from collections.abc import Callable
from pathlib import Path

from tests.board.conftest import Board
from tests.board.virtio_driver import MmioDriver
from tests.machine_process import PATIENCE, QmpClient, wait_until

Start = Callable[..., Board]
TRANSMIT = 1
AREA, AREA_BYTES = 0x100_0000, 64 << 20


def test_a_monitor_is_answered_while_a_console_sends_gigabytes(
    start_board: Start, tmp_path: Path
) -> None:
    board = start_board(
        "-qmp", f"unix:{tmp_path}/qmp,server,nowait", "-device", "virtio-serial-device",
        "-chardev", "file,id=c,path=/dev/null", "-device", "virtconsole,chardev=c",
    )  # fmt: skip
    driver = MmioDriver(board.cpu)
    ring = driver.bring_up(2, size=64)[TRANSMIT]
    with QmpClient(tmp_path / "qmp") as client:
        ring.offer(ring.chain([(AREA, AREA_BYTES, False)] * 64))
        driver.set(0x50, TRANSMIT)
        for _ in range(3):
            assert client.cmd("query-status")["status"] == "running"
        assert ring.used_index() == 0, "it is under way still"
        driver.set(0x70, 0)
        assert board.machine.terminate() == 0


def test_a_client_of_many_commands_leaves_the_others_their_turns(
    start_board: Start, tmp_path: Path
) -> None:
    paths = tmp_path / "one", tmp_path / "other"
    start_board(
        "-qmp", f"unix:{paths[0]},server,nowait",
        "-chardev", f"socket,id=m,path={paths[1]},server,nowait", "-mon", "chardev=m,mode=control",
    )  # fmt: skip
    count, heard = 60, bytearray()

    def answers() -> int:
        return heard.count(b'{"return": [')

    with QmpClient(paths[1]) as client, socket.socket(socket.AF_UNIX) as busy:
        busy.connect(str(paths[0]))
        busy.settimeout(PATIENCE)

        def read() -> None:
            while answers() < count and (part := busy.recv(1 << 20)):
                heard.extend(part)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        busy.sendall(
            b'{"execute": "qmp_capabilities"}' + b'{"execute": "query-qmp-schema"}' * count
        )
        wait_until(lambda: answers() > 0, "it begins")
        assert client.cmd("query-status")["status"] == "running"
        assert answers() < count, "it is under way still"
        reader.join(PATIENCE)
        assert answers() == count
