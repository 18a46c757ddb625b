"""calc-dirty-rate: what is measured, when it is known, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
from qemu.qmp.qmp_client import ExecuteError

from tests.board.conftest import Board
from tests.machine_process import QmpClient
from tests.qmp_schema import Schema

Start = Callable[..., Board]
SECOND_NS = 1_000_000_000
MIB = 1 << 20


def test_the_rate_is_of_pages_written_in_the_time(start_board: Start, tmp_path: Path) -> None:
    board = start_board("-qmp", f"unix:{tmp_path}/qmp,server,nowait")
    with QmpClient(tmp_path / "qmp") as client:
        schema = Schema(client.cmd("query-qmp-schema"))

        def rate() -> dict[str, object]:
            answer: dict[str, object] = client.cmd("query-dirty-rate")
            schema.check_answer("query-dirty-rate", answer)
            return answer

        assert rate()["status"] == "unstarted"
        board.cpu.do(f"memset 0 {MIB // 2:x} 0x11")
        for turn in range(2):
            client.cmd("calc-dirty-rate", **{"calc-time": 2, "mode": "dirty-bitmap"})
            for _ in range(3):
                # 6 MiB in all, however often.
                for at in range(0, 6 * MIB, MIB // 2):
                    board.cpu.do(f"memset {at:x} {MIB // 2:x} 0x22")
            board.cpu.ask(f"clock_step {2 * SECOND_NS - 1}")
            assert rate()["status"] == "measuring" and "dirty-rate" not in rate()
            with pytest.raises(ExecuteError, match="are being logged already"):
                client.cmd("calc-dirty-rate", **{"calc-time": 1, "mode": "dirty-bitmap"})
            board.cpu.ask("clock_step 1")
            assert rate() == {
                "status": "measured", "dirty-rate": 3, "start-time": 2 * turn, "calc-time": 2,
                "sample-pages": 0, "mode": "dirty-bitmap",
            }  # fmt: skip
        assert board.cpu.ask("dirty_log_collect").startswith("ERR"), "nothing is logged any more"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"calc-time": 1}, "mode=page-sampling is not available; use dirty-bitmap"),
        ({"calc-time": 1, "mode": "dirty-ring"}, "mode=dirty-ring is not available"),
        ({"calc-time": 0, "mode": "dirty-bitmap"}, "a number from 1 to 60"),
        ({"calc-time": 61, "mode": "dirty-bitmap"}, "a number from 1 to 60"),
        ({"mode": "dirty-bitmap"}, "calc-time"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    start_board: Start, tmp_path: Path, arguments: dict[str, object], complaint: str
) -> None:
    start_board("-qmp", f"unix:{tmp_path}/qmp,server,nowait")
    with QmpClient(tmp_path / "qmp") as client:
        with pytest.raises(ExecuteError, match=complaint):
            client.cmd("calc-dirty-rate", **arguments)
        assert client.cmd("query-dirty-rate")["status"] == "unstarted"
