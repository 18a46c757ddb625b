"""The tables that describe microvm to its guest: ACPI, and the MP table for kernels without it."""

from __future__ import annotations

from stratovirt.acpi import aml, tables, vmgenid
from stratovirt.acpi.x86_64_processors import madt
from stratovirt.boot import x86_64_linux
from stratovirt.boot.x86_64_mptable import mp_table
from stratovirt.devices.acpi_sleep import SLEEP_TYPE_S5
from stratovirt.devices.ged import NEW_GENERATION, POWER_BUTTON
from stratovirt.devices.ged import REGISTERS as GED_REGISTERS
from stratovirt.devices.x86_64_i8042 import PULSE_RESET
from stratovirt.machine import x86_64_microvm_layout as layout
from stratovirt.machine.x86_64_board import NOTIFY_BUTTON_PRESSED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.machine.x86_64_board import X8664Board
    from stratovirt.virtio.mmio import MmioTransport


def _virtio(number: int, slot: MmioTransport) -> aml.Term:
    return aml.device(
        f"V{number:03d}",
        aml.name("_HID", "LNRO0005"),
        aml.name("_UID", number),
        aml.name("_CCA", 1),
        aml.name(
            "_CRS",
            aml.resources(aml.memory32(slot.base, layout.VIRTIO_SLOT), aml.interrupt(slot.gsi)),
        ),
    )


def _events() -> list[aml.Term]:
    event = aml.method(
        "_EVT",
        1,
        aml.store("ESEL", aml.LOCAL0),
        aml.if_bits(aml.LOCAL0, POWER_BUTTON, aml.notify("PWRB", NOTIFY_BUTTON_PRESSED)),
        aml.if_bits(aml.LOCAL0, NEW_GENERATION, aml.notify(vmgenid.NAME, vmgenid.NOTIFY_CHANGED)),
    )
    return [
        vmgenid.device(x86_64_linux.GENERATION_ID),
        aml.device(
            "PWRB",
            aml.name("_HID", aml.Term(aml.encode(aml.eisa_id("PNP0C0C")))),
            aml.name("_UID", 0),
        ),
        aml.device(
            "GED",
            aml.name("_HID", "ACPI0013"),
            aml.name("_UID", 0),
            aml.name("_CRS", aml.resources(aml.interrupt(layout.GED_GSI))),
            aml.operation_region("EREG", layout.GED, GED_REGISTERS),
            aml.field("EREG", "ESEL"),
            event,
        ),
    ]


def _dsdt(board: X8664Board, slots: list[MmioTransport]) -> bytes:
    devices = [_virtio(number, slot) for number, slot in enumerate(slots)]
    devices += [*board.uart_aml(), *_events()]
    body = aml.scope("\\_SB_", *devices).code
    body += aml.name("\\_S5_", aml.package(SLEEP_TYPE_S5, 0, 0, 0)).code
    return tables.table(b"DSDT", 6, body)


def _processors(board: X8664Board) -> list[tuple[int, bool]]:
    return [(slot.hardware_id, slot.is_present) for slot in board.cpus]


def acpi_tables(board: X8664Board, slots: list[MmioTransport]) -> list[tuple[int, bytes]]:
    """(address, bytes) of all ACPI tables; `slots` are the virtio devices."""
    return tables.lay_out(
        x86_64_linux.ACPI_TABLES,
        x86_64_linux.GENERATION_ID,
        _dsdt(board, slots),
        lambda dsdt, _facs: tables.fadt(
            dsdt=dsdt,
            reset_port=layout.RESET_PORT,
            reset_value=PULSE_RESET,
            sleep_control=layout.SLEEP_PORT,
            sleep_status=layout.SLEEP_PORT + 1,
        ),
        [
            madt(
                lapic=layout.LAPIC,
                cpus=_processors(board),
                ioapic_id=board.ioapic_id,
                ioapic=layout.IOAPIC,
            ),
            *board.numa_tables(),
        ],
    )


def mp_tables(board: X8664Board) -> list[tuple[int, bytes]]:
    """(address, bytes) of the MP table; empty if it is larger than the EBDA."""
    table = mp_table(
        _processors(board), board.ioapic_id, layout.IOAPIC, layout.LAPIC, x86_64_linux.EBDA
    )
    # The guest loses nothing: ACPI lists all vCPUs.
    is_small = len(table) <= x86_64_linux.LOW_RAM_TOP - x86_64_linux.EBDA
    return [(x86_64_linux.EBDA, table)] if is_small else []
