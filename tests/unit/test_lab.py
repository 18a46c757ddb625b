"""The lab's emulator is mended where it is the one known, and a lab that hangs is given up."""

import socket
from pathlib import Path

import pytest

from stratovirt_lab import x86_64_qemu as qemu
from stratovirt_lab.architectures import NAMES, Emulator, find
from stratovirt_lab.cli import EXIT_LAB_FAILED, main
from stratovirt_lab.diagnosis import qemus_fault
from stratovirt_lab.errors import LabError, LabSilentError
from stratovirt_lab.host import _pump

X86_64 = find("x86_64")


def test_the_mended_emulator_differs_only_where_it_was_mended() -> None:
    emulator = qemu.emulator()
    mended = Path(emulator.program).read_bytes()
    restored = mended
    for old, new in qemu.PROGRAM_PATCHES.items():
        assert restored.count(new) == 1
        restored = restored.replace(new, old)
    assert restored == Path("/usr/bin", qemu.NAME).read_bytes()
    assert Path(emulator.environment["LD_PRELOAD"]).exists()


def test_an_emulator_that_is_not_known_is_used_only_by_wish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / qemu.NAME
    other.write_bytes(b"\x7fELF of another version")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(qemu.AS_IT_IS, raising=False)
    with pytest.raises(LabError) as refused:
        qemu.emulator()
    assert str(refused.value) == (
        f"{other} is not the QEMU whose SVM is mended here (qemu-system-x86 "
        "1:7.2+dfsg-7+deb12u18 of Debian 12), and as it is it may lose guests: install that one, "
        "or set STRATOVIRT_LAB_UNMENDED_QEMU=1 to go on with this one"
    )
    monkeypatch.setenv(qemu.AS_IT_IS, "1")
    assert qemu.emulator() == Emulator(str(other))
    assert f"{other} is used as it is" in capsys.readouterr().err


def test_the_labs_own_console_tells_qemus_faults_from_others(tmp_path: Path) -> None:
    assert qemus_fault(tmp_path, X86_64) is None
    console = tmp_path / "console.log"
    console.write_text("Kernel panic - not syncing: Attempted to kill init!\n")
    assert qemus_fault(tmp_path, X86_64) is None
    console.write_text("[ 7.1] int3: 0000 [#1] PREEMPT SMP NOPTI\n[ 7.2] Kernel panic\n")
    assert qemus_fault(tmp_path, X86_64) == "[ 7.1] int3: 0000 [#1] PREEMPT SMP NOPTI"
    console.write_text("")
    line = "ERROR:../../accel/tcg/cpu-exec.c:954: assertion failed: (x)"
    (tmp_path / "qemu.log").write_text(f"{line}\n")
    assert qemus_fault(tmp_path, X86_64) == line


def test_every_architecture_of_the_table_has_a_lab() -> None:
    for name in NAMES:
        assert find(name).probe().startswith(b"\x7fELF")


def test_a_lab_of_another_architecture_is_refused_with_those_there_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["stratovirt-lab", "run", "--arch", "pdp11", "--", "true"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == EXIT_LAB_FAILED
    assert capsys.readouterr().err == (
        "stratovirt-lab: there is no lab for pdp11; there is one for x86_64\n"
    )


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
