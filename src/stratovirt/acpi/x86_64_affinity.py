"""x86_64's processors in the ACPI table SRAT."""

from __future__ import annotations

import struct

from stratovirt.acpi.numa import ENABLED
from stratovirt.acpi.x86_64_processors import MAX_XAPIC_ID


def affinity(apic_id: int, node: int) -> bytes:
    """The SRAT's entry for a processor of a NUMA node (5.2.16.1, 5.2.16.3)."""
    if apic_id <= MAX_XAPIC_ID:
        return struct.pack("<BBBBIB3sI", 0, 16, node, apic_id, ENABLED, 0, bytes(3), 0)
    return struct.pack("<BBHIIIII", 2, 24, 0, node, apic_id, ENABLED, 0, 0)
