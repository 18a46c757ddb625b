"""Two hundred machines in one process, on KVM."""

from pathlib import Path

import pytest

from tests.machines_in_turn import BOARDS, argv_of, check


@pytest.mark.parametrize("fails", [False, True], ids=["closed", "failed half way"])
@pytest.mark.parametrize("board", BOARDS)
def test_a_machine_leaves_nothing_behind_in_its_process(
    tmp_path: Path, board: str, fails: bool
) -> None:
    check(argv_of(board, tmp_path, fails=fails), fails=fails)
