"""Guest NUMA nodes: -numa node and -numa dist."""

from __future__ import annotations

from stratovirt.config.kinds import Integer, NumberSet, Reference
from stratovirt.config.machine import MAX_VCPUS
from stratovirt.config.options import Family, Options, opt

MAX_NODES = 128
LOCAL_DISTANCE = 10
"""ACPI 6.4, 5.2.17: a node's distance to itself, and the least there is."""


class NumaNode(Options, flag="-numa node"):
    """One node: its CPUs and its memory."""

    nodeid: int | None = opt(
        Integer(0, MAX_NODES - 1), default=None, help="number of the node; by default the next"
    )
    cpus: tuple[int, ...] = opt(NumberSet(MAX_VCPUS - 1), default=(), help="CPUs of the node")
    memdev: str = opt(
        Reference("-object memory-backend"), help="id of the memory backend -object of the node"
    )


class NumaDistance(Options, flag="-numa dist"):
    """The distance of one node's memory from another's CPUs; 10 to itself and 20 by default."""

    src: int = opt(Integer(0, MAX_NODES - 1), help="node of the CPUs")
    dst: int = opt(Integer(0, MAX_NODES - 1), help="node of the memory")
    val: int = opt(Integer(LOCAL_DISTANCE, 255), help="distance; 255 is unreachable")

    def check(self) -> None:
        """The local distance is fixed by ACPI, and only a node itself is as near."""
        if (self.src == self.dst) != (self.val == LOCAL_DISTANCE):
            raise ValueError(f"val is {LOCAL_DISTANCE} from a node to itself and more to another")


NUMA = Family("-numa", key="type", noun="kind", variants={"node": NumaNode, "dist": NumaDistance})
