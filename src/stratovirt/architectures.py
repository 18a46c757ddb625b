"""The table of architectures and their boards.

Whatever else differs between them stands in modules named after the architecture, which a row
names and `load` imports.  What a row says itself is known before any of them is imported: option
checks, help, QMP and the manual read it.
"""

from __future__ import annotations

import os

from stratovirt.errors import StratovirtError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

TARGETS = ("x86_64", "aarch64")
"""QMP's SysEmuTarget: the names of the rows, and of one to come."""
BOARDS_TO_COME = ("virt",)
"""Machine types that are known and in no row yet."""
DEFAULT_BOARD = "microvm"
NO_BOARD = "none"
"""The machine type without a board, on any architecture: it answers QMP only."""

GIB = 1 << 30


class BoardRow:
    """One board: `name` is its machine type, `board` a `machine.board.Board`.

    A board has at most `vcpus_most` vCPUs and `ram_most` bytes of memory.  `mmio_slots` is how
    many virtio-mmio devices a command line can give it.
    """

    __slots__ = (
        "board",
        "has_flash",
        "has_pci",
        "mmio_slots",
        "name",
        "ram_most",
        "vcpus_most",
    )

    def __init__(
        self,
        name: str,
        board: str,
        *,
        vcpus_most: int,
        ram_most: int,
        mmio_slots: int = 0,
        has_pci: bool = False,
        has_flash: bool = False,
    ) -> None:
        self.name, self.board = name, board
        self.vcpus_most, self.ram_most = vcpus_most, ram_most
        self.mmio_slots, self.has_pci = mmio_slots, has_pci
        self.has_flash = has_flash


class Architecture:
    """One row; values with a colon are a module and a name in it.

    `name` is what uname(2) and QMP say, `cpu_info` QMP's CpuInfoArch, `gic_versions` the versions
    of Arm's interrupt controller that guests can have.  `hardware_ids` is a function of -smp, the
    ids that the vCPUs have for the guest; `accelerator` is a `accel.kvm.machine.KvmAccelerator`,
    `calls` a `lockdown.calls.Calls`; `boards` are by machine type.
    """

    __slots__ = (
        "accelerator",
        "boards",
        "calls",
        "cpu_info",
        "gic_versions",
        "hardware_ids",
        "name",
    )

    def __init__(
        self,
        name: str,
        *,
        cpu_info: str,
        gic_versions: tuple[int, ...],
        hardware_ids: str,
        accelerator: str,
        boards: tuple[BoardRow, ...],
        calls: str,
    ) -> None:
        self.name, self.cpu_info, self.gic_versions = name, cpu_info, gic_versions
        self.hardware_ids, self.accelerator = hardware_ids, accelerator
        self.boards = {board.name: board for board in boards}
        self.calls = calls


ARCHITECTURES = (
    Architecture(
        "x86_64",
        cpu_info="x86",
        gic_versions=(),
        hardware_ids="stratovirt.cpu.x86_64_topology:apic_ids",
        accelerator="stratovirt.accel.kvm.x86_64:X8664Accelerator",
        # vCPUs: an APIC id has eight bits and is neither the broadcast's nor the I/O APIC's.
        boards=(
            BoardRow(
                "microvm",
                "stratovirt.machine.x86_64_microvm:Microvm",
                vcpus_most=254,
                ram_most=512 * GIB,
                mmio_slots=11,
            ),
            BoardRow(
                "q35",
                "stratovirt.machine.x86_64_q35:Q35",
                vcpus_most=254,
                ram_most=512 * GIB,
                has_pci=True,
                has_flash=True,
            ),
        ),
        calls="stratovirt.lockdown.x86_64_calls:CALLS",
    ),
)


def of_this_host() -> Architecture:
    """The row of the host's architecture; raises StratovirtError where there is none."""
    host = os.uname().machine
    for architecture in ARCHITECTURES:
        if architecture.name == host:
            return architecture
    built = ", ".join(architecture.name for architecture in ARCHITECTURES)
    raise StratovirtError(f"this host's architecture is {host}; this version is built for {built}")


def all_boards() -> list[BoardRow]:
    """The boards of all architectures; a machine type may be there once for each."""
    return [board for row in ARCHITECTURES for board in row.boards.values()]


def load(value: str) -> Any:
    """What a row's value names, imported."""
    from importlib import import_module

    module, _, name = value.partition(":")
    return getattr(import_module(module), name)
