"""The session in the documents is what a machine says today."""

from tools.record_qmp_session import TARGET, record


def test_the_recorded_session_is_not_stale() -> None:
    assert record() == TARGET.read_text(), "python -m tools.record_qmp_session writes it anew"
