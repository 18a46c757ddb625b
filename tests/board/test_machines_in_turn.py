"""Two hundred machines in one process, on the test accelerator."""

from pathlib import Path

import pytest

from tests.machines_in_turn import BOARDS, argv_of, check


@pytest.mark.parametrize("fails", [False, True], ids=["closed", "failed half way"])
@pytest.mark.parametrize("board", BOARDS)
def test_a_machine_leaves_nothing_behind_in_its_process(
    tmp_path: Path, board: str, fails: bool
) -> None:
    argv = argv_of(board, tmp_path, fails=fails)
    check(["-accel", "test", "-mod-test", f"unix:{tmp_path}/cpu", *argv], fails=fails)
