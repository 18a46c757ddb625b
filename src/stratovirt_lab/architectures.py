"""The architectures that labs and their guests have.

They are the rows of stratovirt's own table.  What differs between them for the lab stands in
modules named after the architecture; the one of just that name has its `ARCHITECTURE`.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from stratovirt.architectures import ARCHITECTURES
from stratovirt_lab.errors import LabError

NAMES = tuple(row.name for row in ARCHITECTURES)
"""As uname(2) calls them."""


@dataclass(frozen=True)
class Emulator:
    """QEMU: the path of its program, and variables to start it with."""

    program: str
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Architecture:
    """All that the lab knows of one architecture."""

    debian: str
    """Debian's name for it: its kernels are the flavours NAME and cloud-NAME."""
    console: str
    """Linux's name of the first serial port, in the lab and in guests."""
    emulator: Callable[[], Emulator]
    """Returns the QEMU that the lab runs in; raises LabError when there is none."""
    machine: tuple[str, ...]
    """QEMU's options for the lab's board, its IOMMU, and a CPU that virtualizes."""
    host_words: str
    """Words for the command line of the lab host's kernel."""
    host_modules: tuple[str, ...]
    """Modules that the lab host loads on this architecture only, in Debian's names."""
    hold_kvm: str
    """The module that runs in the lab as long as it lives, and keeps a machine there."""
    registers: tuple[str, ...]
    """How the lines of QEMU's `info registers` begin that tell where a CPU is."""
    kernel_faults: str
    """A pattern for lines on the lab's console that only a fault of the emulator explains."""
    unpack_kernel: Callable[[Path, Path], None]
    """Writes the kernel in Debian's file (first) as an ELF file (second)."""
    grub: str
    """GRUB's name of its EFI format."""
    efi_program: str
    """The file that firmware starts from an EFI system partition."""
    probe: Callable[[], bytes]
    """Makes a -kernel of instructions that stock kernels have, and which then powers off."""


def find(name: str) -> Architecture:
    """The architecture `name`; raises LabError, which lists those there are."""
    if name not in NAMES:
        raise LabError(f"there is no lab for {name}; there is one for {', '.join(NAMES)}")
    found: Architecture = import_module(f"stratovirt_lab.{name}").ARCHITECTURE
    return found


def of_this_host() -> Architecture:
    """The architecture of this machine, and of guests on it; raises LabError."""
    return find(os.uname().machine)
