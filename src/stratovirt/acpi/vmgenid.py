"""VM Generation ID (Microsoft's paper of that name): a guest learns that it was cloned.

Sixteen random bytes in guest RAM differ between any two machines that ever ran from one snapshot.
When they change under a running guest, it gets a notification and reseeds its random pool.
"""

from __future__ import annotations

from stratovirt.acpi import aml

BYTES = 16
NAME = "VGEN"
NOTIFY_CHANGED = 0x80


def device(address: int) -> aml.Term:
    """The device that tells of the identifier at guest physical `address`."""
    return aml.device(
        NAME,
        aml.name("_HID", "QEMUVGID"),
        # The paper's name is longer than ACPI allows, so there is a second one.
        aml.name("_CID", aml.package("VM_Gen_Counter", "VMGENCTR")),
        aml.name("_DDN", "VM_Gen_Counter"),
        aml.name("ADDR", aml.package(address & 0xFFFF_FFFF, address >> 32)),
    )
