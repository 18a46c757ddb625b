"""What differs between architectures stands in files named after them, and in the one table."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

import stratovirt
import stratovirt_lab
from stratovirt.accel.kvm.machine import KvmAccelerator
from stratovirt.architectures import (
    ARCHITECTURES,
    TARGETS,
    Architecture,
    BoardRow,
    load,
    of_this_host,
)
from stratovirt.config.command_line import parse_command_line
from stratovirt.config.errors import ConfigError
from stratovirt.config.machine import Machine, Smp
from stratovirt.lockdown.calls import Calls
from stratovirt.machine.board import Board
from stratovirt.machine.x86_64_microvm_layout import VIRTIO_GSIS

PACKAGE, LAB = Path(stratovirt.__file__).parent, Path(stratovirt_lab.__file__).parent
TESTS = Path(__file__).parents[1]
SOURCES = (".py", ".pyi", ".pyx", ".pxd", ".h", ".c", ".sh")
WORDS = re.compile(r"x86_64|amd64|lapic|ioapic|aarch64|arm64")
NAMED = re.compile(r"x86_64|aarch64")


@pytest.mark.parametrize(
    ("folder", "pattern", "table", "example"),
    [
        (PACKAGE, "**/*", "architectures.py", "accel/kvm/x86_64.py"),
        (LAB, "**/*", None, "x86_64.py"),
        # What the tests of all beds share, the payloads, and the tests with real guests.
        (TESTS, "*", None, None),
        (TESTS, "payloads/*", None, "payloads/x86_64.py"),
        (TESTS, "guest/*", None, None),
    ],
)
def test_only_files_named_after_an_architecture_and_the_table_speak_of_one(
    folder: Path, pattern: str, table: str | None, example: str | None
) -> None:
    files = [path for path in folder.glob(pattern) if path.suffix in SOURCES]
    speaking = {str(path.relative_to(folder)) for path in files if WORDS.search(path.read_text())}
    assert example is None or example in speaking
    assert {name for name in speaking if not NAMED.search(name)} == ({table} if table else set())


@pytest.mark.parametrize("row", ARCHITECTURES, ids=lambda row: row.name)
def test_a_row_names_what_it_says(row: Architecture) -> None:
    accelerator = load(row.accelerator)
    assert issubclass(accelerator, KvmAccelerator) and not inspect.isabstract(accelerator)
    for board_row in row.boards.values():
        board = load(board_row.board)
        assert issubclass(board, Board) and not inspect.isabstract(board)
        assert row.name in board_row.board
    assert isinstance(load(row.calls), Calls)
    assert len(load(row.hardware_ids)(Smp.parse("3"))) == 3
    for value in (row.hardware_ids, row.accelerator, row.calls):
        assert row.name in value
    assert row.name in TARGETS


def test_microvms_slots_are_those_of_its_map() -> None:
    assert ARCHITECTURES[0].boards["microvm"].mmio_slots == len(VIRTIO_GSIS)


SMALL = BoardRow("small", "", vcpus_most=2, ram_most=1 << 29, has_flash=True, mmio_slots=1)
"""A board that differs from those there are in each fact."""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("-smp 3", "-smp 3: small has at most 2 vCPUs"),
        ("-m 513", "-m 513M: small has at most 512M of memory"),
        ("-drive if=pflash,unit=0,file=f", None),
        ("-device virtio-balloon-device", None),
        ("-device virtio-balloon-pci,bus=pcie.0,addr=1", "-device virtio-balloon-pci: small has no "
         "PCI bus; use virtio-balloon-device"),
        ("-device virtio-rng-device,rng=r -device virtio-balloon-device -object "
         "rng-random,id=r,filename=/dev/zero", "-device virtio-balloon-device: small has 1 virtio "
         "slots and all are taken"),
    ],
)  # fmt: skip
def test_a_boards_row_is_all_that_the_option_checks_know_of_it(
    monkeypatch: pytest.MonkeyPatch, options: str, message: str | None
) -> None:
    monkeypatch.setattr(Machine.fields["type"].kind, "words", ("small",))
    monkeypatch.setitem(of_this_host().boards, "small", SMALL)
    argv = ["-machine", "small", "-kernel", "k", *options.split()]
    with pytest.raises(ConfigError) if message else nullcontext() as refused:
        parse_command_line(argv)
    assert message is None or str(refused and refused.value) == message


def test_another_architectures_board_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    there = Architecture(
        "elsewhere", cpu_info="", gic_versions=(), hardware_ids="", accelerator="", calls="",
        boards=(SMALL,),
    )  # fmt: skip
    monkeypatch.setattr(Machine.fields["type"].kind, "words", ("small",))
    monkeypatch.setattr("stratovirt.config.board_check.ARCHITECTURES", (of_this_host(), there))
    with pytest.raises(ConfigError) as refused:
        parse_command_line(["-machine", "small", "-kernel", "k"])
    assert str(refused.value) == (
        "-machine small: this version has the boards microvm and q35; small is a board of elsewhere"
    )


def test_this_host_has_a_row() -> None:
    assert of_this_host() in ARCHITECTURES


def test_an_unknown_architecture_is_refused_in_one_line() -> None:
    # The kernel then tells the process that it is another machine.
    command = ["setarch", "i686", sys.executable, "-m", "stratovirt", "-machine", "none"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == (
        "stratovirt: this host's architecture is i686; this version is built for x86_64\n"
    )
