"""Commands whose answer comes later, where the host has no thread for them."""

from collections.abc import Callable
from typing import Any

import pytest

from stratovirt.errors import StratovirtError
from stratovirt.monitor import later
from stratovirt.monitor.later import Later


class SoonLoop:
    """Runs what it is given at once."""

    def call_soon(self, function: Callable[[], None]) -> None:
        function()


def test_a_command_that_gets_no_thread_fails_and_is_undone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_thread(*_arguments: object) -> None:
        raise RuntimeError("can't start new thread")

    def finish(outcome: Callable[[], Any]) -> object:
        undone.append(True)
        return outcome()

    undone: list[bool] = []
    answers: list[Callable[[], object]] = []
    monkeypatch.setattr(later, "start_thread", no_thread)
    Later(lambda: 1, finish).begin(SoonLoop(), answers.append)  # type: ignore[arg-type]
    with pytest.raises(StratovirtError, match="no thread to wait in: can't start new thread"):
        answers[0]()
    assert undone == [True]
