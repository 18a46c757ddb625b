"""What differs between architectures stands in files named after them, and in the one table."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import stratovirt
from stratovirt.accel.kvm.machine import KvmAccelerator
from stratovirt.architectures import ARCHITECTURES, TARGETS, Architecture, load, of_this_host
from stratovirt.config.machine import Smp
from stratovirt.lockdown.calls import Calls
from stratovirt.machine.board import Board

PACKAGE = Path(stratovirt.__file__).parent
SOURCES = (".py", ".pyi", ".pyx", ".pxd", ".h")
WORDS = re.compile(r"x86_64|amd64|lapic|ioapic|aarch64|arm64")
NAMED = re.compile(r"x86_64|aarch64")


def test_only_files_named_after_an_architecture_and_the_table_speak_of_one() -> None:
    files = [path for path in PACKAGE.rglob("*") if path.suffix in SOURCES]
    speaking = {str(path.relative_to(PACKAGE)) for path in files if WORDS.search(path.read_text())}
    assert "accel/kvm/x86_64.py" in speaking
    assert {name for name in speaking if not NAMED.search(name)} == {"architectures.py"}


@pytest.mark.parametrize("row", ARCHITECTURES, ids=lambda row: row.name)
def test_a_row_names_what_it_says(row: Architecture) -> None:
    accelerator = load(row.accelerator)
    assert issubclass(accelerator, KvmAccelerator) and not inspect.isabstract(accelerator)
    for value in row.boards.values():
        board = load(value)
        assert issubclass(board, Board) and not inspect.isabstract(board)
    calls = load(row.calls)
    assert isinstance(calls, Calls)
    assert calls.boards.keys() == row.boards.keys()
    assert len(load(row.hardware_ids)(Smp.parse("3"))) == 3
    for value in (row.hardware_ids, row.accelerator, row.calls, *row.boards.values()):
        assert row.name in value
    assert row.name in TARGETS


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
