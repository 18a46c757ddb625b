"""The table of architectures.

Whatever else differs between them stands in modules named after the architecture, which a row
names and `load` imports.
"""

from __future__ import annotations

import os

from stratovirt.errors import StratovirtError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

TARGETS = ("x86_64", "aarch64")
"""QMP's SysEmuTarget: the names of the rows, and of one to come."""


class Architecture:
    """One row; values with a colon are a module and a name in it.

    `name` is what uname(2) and QMP say, `cpu_info` QMP's CpuInfoArch, `gic_versions` the versions
    of Arm's interrupt controller that guests can have.  `hardware_ids` is a function of -smp, the
    ids that the vCPUs have for the guest; `accelerator` is a `accel.kvm.machine.KvmAccelerator`,
    each of `boards` (by machine type) a `machine.board.Board`, `calls` a `lockdown.calls.Calls`.
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
        boards: dict[str, str],
        calls: str,
    ) -> None:
        self.name, self.cpu_info, self.gic_versions = name, cpu_info, gic_versions
        self.hardware_ids, self.accelerator = hardware_ids, accelerator
        self.boards, self.calls = boards, calls


ARCHITECTURES = (
    Architecture(
        "x86_64",
        cpu_info="x86",
        gic_versions=(),
        hardware_ids="stratovirt.cpu.x86_64_topology:apic_ids",
        accelerator="stratovirt.accel.kvm.x86_64:X8664Accelerator",
        boards={
            "microvm": "stratovirt.machine.x86_64_microvm:Microvm",
            "q35": "stratovirt.machine.x86_64_q35:Q35",
        },
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


def load(value: str) -> Any:
    """What a row's value names, imported."""
    from importlib import import_module

    module, _, name = value.partition(":")
    return getattr(import_module(module), name)
