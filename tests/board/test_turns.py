"""Each turn of the loop does a bounded amount for one device, and the others have theirs."""

from collections.abc import Callable
from pathlib import Path

from tests.board.conftest import Board
from tests.board.virtio_driver import MmioDriver
from tests.machine_process import QmpClient

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
