"""The lab's emulator is mended where it is the one known, and a lab that hangs is given up."""

import socket
from pathlib import Path

import pytest

from stratovirt_lab import qemu
from stratovirt_lab.errors import LabError, LabSilentError
from stratovirt_lab.host import _pump


def test_the_mended_emulator_differs_only_where_it_was_mended() -> None:
    emulator = qemu.emulator()
    mended = Path(emulator.program).read_bytes()
    restored = mended
    for old, new in qemu.PROGRAM_PATCHES.items():
        assert restored.count(new) == 1
        restored = restored.replace(new, old)
    assert restored == Path("/usr/bin", qemu.NAME).read_bytes()
    assert Path(emulator.environment["LD_PRELOAD"]).exists()


def test_an_emulator_that_is_not_known_is_used_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / qemu.NAME
    other.write_bytes(b"\x7fELF of another version")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert qemu.emulator() == qemu.Emulator(str(other))
    assert f"{other} is not the QEMU whose SVM is mended here" in capsys.readouterr().err


def test_without_an_emulator_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LabError, match="run 'make setup'"):
        qemu.emulator()


def test_a_lab_that_says_nothing_is_given_up() -> None:
    near, far = socket.socketpair()
    with near, far, pytest.raises(LabSilentError, match=r"nothing for 0\.1 s"):
        _pump({"in": near, "status": near}, 0.1)
