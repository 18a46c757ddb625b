"""A Process owns its log and trace events: what a closed one leaves, and what an open one bars."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from stratovirt._native.trace_events import EVENTS, VM_STATUS
from stratovirt.errors import StratovirtError
from stratovirt.runtime.log import LINES_AT_ONCE, Log
from stratovirt.runtime.process import Process

log = Log("stratovirt.test")


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    monkeypatch.delenv("STRATOVIRT_LOG_LEVEL", raising=False)
    process = Process()
    yield process
    process.close()


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def messages(path: Path) -> list[str]:
    return [line.split(maxsplit=1)[1] for line in path.read_text().splitlines()]


def test_each_process_has_its_own_log_and_level(
    process: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = descriptors()
    process.open_log(str(tmp_path / "first"), to_stderr=False)
    log.info("nobody asked for this")
    log.error("first")
    process.close()
    assert descriptors() == before and process.outputs == {0, 1, 2}
    monkeypatch.setenv("STRATOVIRT_LOG_LEVEL", "info")
    second = Process()
    second.open_log(str(tmp_path / "second"), to_stderr=False)
    log.info("second")
    second.close()
    assert descriptors() == before
    assert messages(tmp_path / "first") == ["error test: first"]
    assert messages(tmp_path / "second") == ["info  test: second"]


def test_after_the_process_errors_go_to_stderr(
    process: Process, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    process.open_log(str(tmp_path / "log"), to_stderr=False)
    process.close()
    log.warn("not this")
    log.error("late")
    assert (tmp_path / "log").read_text() == ""
    assert capfd.readouterr().err.endswith(" error test: late\n")


def test_lines_of_one_process_hold_back_none_of_the_next(process: Process, tmp_path: Path) -> None:
    process.open_log(str(tmp_path / "first"), to_stderr=False)
    for _ in range(LINES_AT_ONCE + 20):
        log.error("flood")
    process.close()
    assert len(messages(tmp_path / "first")) < LINES_AT_ONCE + 20
    process.open_log(str(tmp_path / "second"), to_stderr=False)
    log.error("dry")
    assert messages(tmp_path / "second") == ["error test: dry"]


def test_an_error_of_one_process_is_not_told_as_that_of_the_next(
    process: Process, tmp_path: Path
) -> None:
    sink = process.open_log(str(tmp_path / "first"), to_stderr=False)
    log.error("broken")
    assert sink.unseen_error == "broken"
    process.close()
    assert process.open_log(None, to_stderr=False).unseen_error == ""


def test_a_second_log_at_the_same_time_is_refused(process: Process, tmp_path: Path) -> None:
    process.open_log(str(tmp_path / "first"), to_stderr=False)
    before = descriptors()
    second = Process()
    with pytest.raises(StratovirtError, match="the log is another Process's"):
        second.open_log(str(tmp_path / "second"), to_stderr=False)
    second.close()
    log.error("goes on")
    assert messages(tmp_path / "first") == ["error test: goes on"]
    assert descriptors() == before and not (tmp_path / "second").exists()


def test_trace_events_end_with_their_process(process: Process, tmp_path: Path) -> None:
    before = descriptors()
    process.open_log(str(tmp_path / "first"), to_stderr=False)
    assert process.tracing.set_state("vm_*", enable=True)
    VM_STATUS("running")
    process.close()
    assert descriptors() == before
    assert not any(event.enabled for event in EVENTS.values())
    process.open_log(str(tmp_path / "second"), to_stderr=False)
    VM_STATUS("paused")
    process.tracing.set_state("vm_*", enable=True)
    VM_STATUS("shutdown")
    assert messages(tmp_path / "first") == ["trace vm_status status=running"]
    assert messages(tmp_path / "second") == ["trace vm_status status=shutdown"]


def test_a_second_process_cannot_take_over_the_trace_events(
    process: Process, tmp_path: Path
) -> None:
    process.open_log(str(tmp_path / "log"), to_stderr=False)
    process.tracing.set_state("vm_*", enable=True)
    before = descriptors()
    second = Process()
    with pytest.raises(StratovirtError, match="trace events are another Process's"):
        second.tracing.set_state("*", enable=True)
    second.close()
    VM_STATUS("running")
    assert messages(tmp_path / "log") == ["trace vm_status status=running"]
    assert descriptors() == before
