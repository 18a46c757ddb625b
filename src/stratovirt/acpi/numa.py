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


def distance(given: dict[tuple[int, int], int], source: int, target: int) -> int:
    """How far apart two nodes are, by the distances `given` or their defaults.

    A distance given for one direction holds for both.
    """
    default = LOCAL_DISTANCE if source == target else REMOTE_DISTANCE
    return given.get((source, target), given.get((target, source), default))


def slit(count: int, given: dict[tuple[int, int], int]) -> bytes:
    """The SLIT (5.2.17) of `count` nodes; missing distances get their defaults."""
    nodes = range(count)
    cells = bytes(distance(given, source, target) for source in nodes for target in nodes)
    return table(b"SLIT", 1, struct.pack("<Q", count) + cells)
