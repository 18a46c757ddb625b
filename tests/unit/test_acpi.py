"""ACPI tables: iasl, the reference compiler, disassembles and recompiles each of them."""

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from stratovirt._native.guest_memory import GuestMemory
from stratovirt._native.ram_mapping import RamMapping
from stratovirt.acpi import aml, numa, tables
from stratovirt.acpi.pci import host_bridge
from stratovirt.acpi.x86_64_affinity import affinity
from stratovirt.acpi.x86_64_processors import madt
from stratovirt.boot.x86_64_mptable import mp_table

IASL = shutil.which("iasl") or "/usr/bin/iasl"


def dsdt() -> bytes:
    virtio = aml.device(
        "V000",
        aml.name("_HID", "LNRO0005"),
        aml.name("_UID", 0),
        aml.name("_CRS", aml.resources(aml.memory32(0xF010_0000, 0x200), aml.interrupt(5))),
    )
    uart = aml.device(
        "COM1",
        aml.name("_HID", aml.eisa_id("PNP0501")),
        aml.name("_CRS", aml.resources(aml.io_ports(0x3F8, 8), aml.interrupt(4))),
    )
    body = aml.scope("\\_SB_", virtio, uart).code
    return tables.table(b"DSDT", 6, body + aml.name("\\_S5_", aml.package(5, 0, 0, 0)).code)


def dsdt_with_port_window() -> bytes:
    bridge = host_bridge(
        ecam=(0x40_1000_0000, 256 << 20),
        ports=(aml.port_window(0x3EFF_0000, 1 << 16),),
        windows=[(0x1000_0000, 0x3EFE_FFFF)],
        high_window=(1 << 39, (1 << 40) - 1),
        first_gsi=3,
        children=[],
    )
    return tables.table(b"DSDT", 6, aml.scope("\\_SB_", bridge).code)


TABLES = {
    "dsdt": dsdt(),
    "dsdt_with_port_window": dsdt_with_port_window(),
    "fadt": tables.fadt(
        dsdt=0xE0040, reset_port=0x64, reset_value=0xFE, sleep_control=0x600, sleep_status=0x601
    ),
    "madt": madt(
        lapic=0xFEE0_0000, cpus=[(0, True), (1, True), (300, True)], ioapic_id=2, ioapic=0xFEC0_0000
    ),
    "srat": numa.srat(
        [affinity(0, 0), affinity(1, 1), affinity(300, 1)],
        [(0, 3 << 30, 0), (4 << 30, 1 << 30, 0), (5 << 30, 1 << 30, 1)],
    ),
    "slit": numa.slit(3, {(0, 1): 30, (2, 0): 40}),
    "xsdt": tables.xsdt([0x1000, 0x2000]),
}


@pytest.mark.parametrize("name", TABLES)
def test_iasl_reads_the_table_without_a_complaint(name: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.aml").write_bytes(TABLES[name])
    done = subprocess.run([IASL, "-d", f"{name}.aml"], cwd=tmp_path, capture_output=True, text=True)
    text = done.stdout + done.stderr
    assert done.returncode == 0, text
    assert "Error" not in text and "Warning" not in text and "Invalid" not in text, text
    assert (tmp_path / f"{name}.dsl").exists()


def test_the_numa_tables_say_which_node_everything_is_of(tmp_path: Path) -> None:
    (tmp_path / "srat.aml").write_bytes(TABLES["srat"])
    subprocess.run([IASL, "-d", "srat.aml"], cwd=tmp_path, check=True, capture_output=True)
    text = (tmp_path / "srat.dsl").read_text()
    domains = re.findall(r"Proximity Domain(?: Low\(8\))? : (\w+)", text)
    assert [int(domain, 16) for domain in domains] == [0, 1, 1, 0, 0, 1]
    lengths = re.findall(r"Address Length : (\w+)", text)
    assert [int(length, 16) >> 30 for length in lengths] == [3, 1, 1]
    # A distance given one way holds both ways unless the other is given too.
    assert TABLES["slit"][44:] == bytes([10, 30, 40, 30, 10, 20, 40, 20, 10])


def test_the_madt_says_that_an_nmi_comes_on_lint1_of_every_processor() -> None:
    content, at, found = TABLES["madt"], 44, []
    while at < len(content):
        entry = content[at : at + content[at + 1]]
        if entry[0] == 4:
            found.append(entry)
        at += len(entry)
    assert found == [bytes([4, 6, 0xFF, 0, 0, 1])]


def test_the_power_button_of_a_reduced_board_is_a_device() -> None:
    (flags,) = struct.unpack_from("<I", TABLES["fadt"], 112)
    assert flags & 1 << 4, "PWR_BUTTON: no fixed power button, one in the namespace"


def test_iasl_recompiles_the_dsdt_to_the_same_devices(tmp_path: Path) -> None:
    (tmp_path / "dsdt.aml").write_bytes(TABLES["dsdt"])
    subprocess.run([IASL, "-d", "dsdt.aml"], cwd=tmp_path, check=True, capture_output=True)
    source = (tmp_path / "dsdt.dsl").read_text()
    for part in ('"LNRO0005"', 'EisaId ("PNP0501")', "0xF0100000", "0x03F8", "0x00000005,"):
        assert part in source
    done = subprocess.run([IASL, "-ve", "dsdt.dsl"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    # iasl drops the backslash of root names; between them the byte code is the same.
    ours, theirs = TABLES["dsdt"], (tmp_path / "dsdt.aml").read_bytes()
    assert _devices(theirs) == _devices(ours)


def test_io_ports_that_are_reached_in_memory_are_translated(tmp_path: Path) -> None:
    (tmp_path / "dsdt.aml").write_bytes(TABLES["dsdt_with_port_window"])
    subprocess.run([IASL, "-d", "dsdt.aml"], cwd=tmp_path, check=True, capture_output=True)
    source = (tmp_path / "dsdt.dsl").read_text()
    window = re.search(
        r"QWordIO \(ResourceProducer, MinFixed, MaxFixed.*?EntireRange,(.*?)\)", source, re.S
    )
    assert window is not None
    granularity, first, last, translation, length = re.findall(r"0x(\w+),", window[1])[:5]
    assert (int(granularity, 16), int(first, 16), int(last, 16)) == (0, 0, 0xFFFF)
    assert (int(translation, 16), int(length, 16)) == (0x3EFF_0000, 0x1_0000)


def _devices(table: bytes) -> bytes:
    return table[table.index(b"_SB_") : table.rindex(b"_S5_")].rstrip(b"\\")


def test_the_tables_are_found_from_the_root_pointer() -> None:
    memory = GuestMemory()
    memory.add(0xE0000, RamMapping(0x20000), 0, 0x20000)
    placed = tables.lay_out(
        0xE0000, 0x100000, TABLES["dsdt"], lambda _dsdt, _facs: TABLES["fadt"], [TABLES["madt"]]
    )
    for address, content in placed:
        memory.write(address, content)
    pointer = memory.read(0xE0000, 36)
    assert pointer[:8] == b"RSD PTR " and sum(pointer) & 0xFF == 0 and sum(pointer[:20]) & 0xFF == 0
    (xsdt,) = struct.unpack_from("<Q", pointer, 24)
    header = memory.read(xsdt, 36)
    (length,) = struct.unpack_from("<I", header, 4)
    signatures = []
    for (address,) in struct.iter_unpack("<Q", memory.read(xsdt + 36, length - 36)):
        signatures.append(memory.read(address, 4))
    assert signatures == [b"FACP", b"APIC"]


def test_the_mp_table_lists_every_cpu_with_sound_checksums() -> None:
    table = mp_table([(0, True), (1, True), (2, False)], 3, 0xFEC0_0000, 0xFEE0_0000, 0x9FC00)
    assert table[:4] == b"_MP_" and sum(table[:16]) & 0xFF == 0
    (config,) = struct.unpack_from("<I", table, 4)
    assert config == 0x9FC10
    assert table[16:20] == b"PCMP" and sum(table[16:]) & 0xFF == 0
    (length, count) = struct.unpack_from("<H28xH", table, 20)
    assert length == len(table) - 16
    processors = [table[60 + 20 * i : 80 + 20 * i] for i in range(3)]
    assert [(p[0], p[1], p[3]) for p in processors] == [(0, 0, 3), (0, 1, 1), (0, 2, 0)]
    assert count == 3 + 1 + 1 + 24 + 2


@pytest.mark.parametrize("size", [1, 62, 63, 64, 4000, 5000, 300_000])
def test_package_lengths_of_every_width_are_read_back_by_iasl(size: int, tmp_path: Path) -> None:
    body = aml.name("BUF0", bytes(size)).code
    (tmp_path / "t.aml").write_bytes(tables.table(b"SSDT", 2, body))
    done = subprocess.run([IASL, "-d", "t.aml"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    text = (tmp_path / "t.dsl").read_text()
    found = re.search(r"Buffer \((\w+)\)", text)
    assert found is not None and int(found[1].replace("One", "1"), 0) == size


def test_aml_is_encoded_as_the_specification_shows() -> None:
    # ACPI 6.5, 20.2.2: no prefix, DualNamePrefix, MultiNamePrefix with a count.
    assert aml.name_string("COM1") == b"COM1"
    assert aml.name_string("\\_SB.PCI0") == b"\\\x2e_SB_PCI0"
    assert aml.name_string("\\_SB.PCI0.S1") == b"\\\x2f\x03_SB_PCI0S1__"
    # 20.2.4: PkgLength counts itself; its first byte says how many more there are.
    for size, length in ((62, b"\x3f"), (63, b"\x41\x04"), (0xFFD, b"\x4f\xff"),
                         (0xFFE, b"\x81\x00\x01")):  # fmt: skip
        assert aml.scope("A", aml.Term(bytes(size - 4))).code[1 : 1 + len(length)] == length
    # 20.2.5.2: an access of 32 bits at once (DWordAcc), without a lock.
    assert aml.field("R", "F").code == b"\x5b\x81\x0bR___\x03F___\x20"
