"""NUMA tables for the guest: the nodes of CPUs and memory (SRAT), and node distances (SLIT)."""

from __future__ import annotations

import struct

from stratovirt.acpi.tables import table

ENABLED = 1
REMOTE_DISTANCE = 20
LOCAL_DISTANCE = 10


def srat(processors: list[bytes], memory: list[tuple[int, int, int]]) -> bytes:
    """The SRAT (ACPI 6.5, 5.2.16) of processor entries and (gpa, size, node) memory."""
    body = struct.pack("<IQ", 1, 0) + b"".join(processors)
    for gpa, size, node in memory:
        body += struct.pack("<BBIHQQIIQ", 1, 40, node, 0, gpa, size, 0, ENABLED, 0)
    return table(b"SRAT", 3, body)


def slit(count: int, given: dict[tuple[int, int], int]) -> bytes:
    """The SLIT (5.2.17) of `count` nodes; missing distances get their defaults.

    A distance given for one direction holds for both.
    """
    cells = bytearray()
    for source in range(count):
        for target in range(count):
            default = LOCAL_DISTANCE if source == target else REMOTE_DISTANCE
            back = given.get((target, source), default)
            cells.append(given.get((source, target), back))
    return table(b"SLIT", 1, struct.pack("<Q", count) + bytes(cells))
