"""What a command line says reaches the guest's memory and tables as it was said."""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.board.conftest import Board
from tests.machine_process import QmpClient
from tests.payload import SPIN, write_kernel

Start = Callable[..., Board]
COMMAND_LINE = 0x2_0000
TABLES, TABLES_BYTES = 0xE_0000, 0x1_F000
EBDA = 0x9_FC00


def test_bytes_of_the_kernels_command_line_that_are_no_text_reach_it(
    start_board: Start, tmp_path: Path
) -> None:
    kernel = write_kernel(tmp_path, SPIN)
    # The way Python passes bytes: those that are no UTF-8 escaped.
    board = start_board("-kernel", str(kernel), "-append", "a=\udcff\udcfe\u00e9 b")
    assert board.cpu.read(COMMAND_LINE, 10) == b"a=\xff\xfe\xc3\xa9 b\0\0"


@pytest.mark.parametrize("kind", ["microvm", "q35"])
def test_places_for_vcpus_that_may_come_are_listed_and_not_there(
    start_board: Start, tmp_path: Path, kind: str
) -> None:
    kernel, path = write_kernel(tmp_path, SPIN), tmp_path / "qmp"
    board = start_board(
        "-kernel", str(kernel), "-smp", "2,maxcpus=4", "-qmp", f"unix:{path},server,nowait",
        board=kind,
    )  # fmt: skip
    tables = board.cpu.read(TABLES, TABLES_BYTES)
    start = tables.index(b"APIC")
    (size,) = struct.unpack_from("<I", tables, start + 4)
    cursor = start + 44
    flags: list[int] = []
    ids: list[int] = []
    while cursor < start + size:
        if tables[cursor] == 0:
            ids.append(tables[cursor + 3])
            flags += struct.unpack_from("<I", tables, cursor + 4)
        elif tables[cursor] == 1:
            assert tables[cursor + 2] not in ids
        cursor += tables[cursor + 1]
    # Enabled, or able to come (ACPI 6.5, table 5.21).
    assert flags == [1, 1, 2, 2] and len(set(ids)) == 4
    if kind == "microvm":
        entries = board.cpu.read(EBDA + 16 + 44, 80)
        assert [entries[20 * number + 3] for number in range(4)] == [3, 1, 0, 0]
    with QmpClient(path) as client:
        places = client.cmd("query-hotpluggable-cpus")
        assert ["qom-path" in place for place in places] == [False, False, True, True]
        assert sorted(place["props"]["core-id"] + 4 * place["props"]["socket-id"]
                      for place in places) in ([0, 1, 2, 3], [0, 4, 8, 12])  # fmt: skip
        assert len(client.cmd("query-cpus-fast")) == 2


def test_memory_is_rounded_up_to_what_qemu_rounds_it_to(start_board: Start, tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    start_board(
        "-m", f"{(256 << 20) + 1}B", "-qmp", f"unix:{path},server,nowait",
        "-object", f"memory-backend-ram,id=m,size={(256 << 20) + 1}",
        "-numa", "node,memdev=m,cpus=0",
    )  # fmt: skip
    with QmpClient(path) as client:
        (piece,) = client.cmd("query-mem")
        assert piece["size"] == (256 << 20) + 8192
