"""VM Generation ID (Microsoft's specification): tells a guest that it was cloned.

Each machine that starts from a snapshot gets its own 16 random bytes in guest RAM.  A restored
guest is notified of their change and reseeds its random number generator.
"""

from __future__ import annotations

from stratovirt.acpi import aml

BYTES = 16
NAME = "VGEN"
NOTIFY_CHANGED = 0x80


def device(address: int) -> aml.Term:
    """The AML device that reports the identifier's guest physical `address`."""
    return aml.device(
        NAME,
        aml.name("_HID", "QEMUVGID"),
        # The specified name is longer than ACPI allows, so a short one is added.
        aml.name("_CID", aml.package("VM_Gen_Counter", "VMGENCTR")),
        aml.name("_DDN", "VM_Gen_Counter"),
        aml.name("ADDR", aml.package(address & 0xFFFF_FFFF, address >> 32)),
    )
