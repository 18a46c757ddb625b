"""The ACPI and SMBIOS tables of q35, for guest memory or for fw_cfg."""

from __future__ import annotations

from stratovirt.acpi import aml, pci, tables
from stratovirt.acpi.x86_64_processors import madt
from stratovirt.devices.x86_64_ich9 import SLEEP_TYPE_S5
from stratovirt.devices.x86_64_rtc import CENTURY
from stratovirt.machine import x86_64_q35_layout as layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.devices.x86_64_ich9 import Mch
    from stratovirt.machine.x86_64_board import X8664Board

FULL_RESET = 0x0E
"""Value of the reset control register (port 0xCF9) for a full reset."""
HIGH_WINDOW_ALIGNMENT = 1 << 30


def _windows(ecam: tuple[int, int], low_ram_end: int) -> list[tuple[int, int]]:
    """32-bit windows for BARs: above low RAM, below the interrupt controllers, without ECAM."""
    base, size = ecam
    if base >= layout.WINDOW_END:
        return [(low_ram_end, layout.WINDOW_END - 1)]
    pieces = [(low_ram_end, base - 1), (base + size, layout.WINDOW_END - 1)]
    return [(first, last) for first, last in pieces if first < last]


def _dsdt(board: X8664Board, ecam: tuple[int, int]) -> bytes:
    low, high_end = board.ram[0][1], sum(board.ram[-1])
    high = -(-max(high_end, layout.HIGH_RAM_START) // HIGH_WINDOW_ALIGNMENT) * HIGH_WINDOW_ALIGNMENT
    clock = aml.device(
        "RTC",
        aml.name("_HID", aml.Term(aml.encode(aml.eisa_id("PNP0B00")))),
        aml.name(
            "_CRS",
            aml.resources(aml.io_ports(layout.RTC_PORT, 8), aml.irq(layout.RTC_GSI)),
        ),
    )
    lpc = aml.device(
        "ISA",
        aml.name("_ADR", layout.LPC_PLACE[0] << 16 | layout.LPC_PLACE[1]),
        clock,
        *board.uart_aml(),
    )
    body = aml.scope(
        "\\_SB_",
        pci.host_bridge(
            ecam=ecam,
            windows=_windows(ecam, max(low, layout.LOW_RAM_END)),
            high_window=(high, (1 << board.accelerator.physical_address_bits) - 1),
            first_gsi=layout.INTX_FIRST_GSI,
            children=[lpc],
        ),
    ).code
    body += aml.name("\\_S5_", aml.package(SLEEP_TYPE_S5, 0, 0, 0)).code
    return tables.table(b"DSDT", 6, body)


def acpi_tables(board: X8664Board, mch: Mch, address: int, limit: int) -> list[tuple[int, bytes]]:
    """(address, bytes) of all tables, the RSDP at `address`."""
    ecam = mch.ecam or (layout.ECAM, layout.ECAM_BYTES)
    return tables.lay_out(
        address,
        limit,
        _dsdt(board, ecam),
        lambda dsdt, facs: tables.fixed_fadt(
            facs=facs,
            dsdt=dsdt,
            sci=layout.SCI_GSI,
            pm=layout.PM_PORTS,
            reset_port=layout.RESET_PORT,
            reset_value=FULL_RESET,
            century=CENTURY,
        ),
        [
            madt(
                lapic=layout.LAPIC,
                cpus=[(slot.hardware_id, slot.is_present) for slot in board.cpus],
                ioapic_id=board.ioapic_id,
                ioapic=layout.IOAPIC,
                level_irqs=(layout.SCI_GSI,),
                has_pic=True,
            ),
            tables.mcfg(ecam[0], (ecam[1] >> 20) - 1),
            *board.numa_tables(),
        ],
        facs=tables.facs(),
    )


def smbios(board: X8664Board) -> bytes:
    """The SMBIOS structures."""
    from stratovirt.machine.smbios import smbios_tables

    topology = board.cpus.topology
    cores = topology.dies * topology.clusters * topology.cores
    return smbios_tables(
        uuid=board.config.uuid,
        sockets=topology.sockets,
        cores=cores,
        threads=topology.threads,
        ram=board.ram,
    )
