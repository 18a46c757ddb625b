"""Things that devices and nodes refer to: the kinds of -object."""

from __future__ import annotations

from stratovirt.config.kinds import Choice, Identifier, NumberSet, OnOff, PathName, Size
from stratovirt.config.machine import RAM_GRAIN
from stratovirt.config.options import Family, Options, opt

MAX_HOST_NODES = 1024


class Iothread(Options, flag="-object iothread"):
    """A thread of its own for the data of the devices that name it.

    One that no device names is there for a device that a monitor's client adds.
    """

    id: str = opt(Identifier(), help="name that devices refer to")


class MemoryBackend(Options):
    """Memory of one NUMA node."""

    id: str = opt(Identifier(), help="name that -numa node refers to")
    size: int = opt(
        Size(1 << 20, 512 << 30, unit="", grain=RAM_GRAIN),
        help="size; bytes when no unit is given",
    )
    policy: str = opt(
        Choice("default", "preferred", "bind", "interleave"),
        default="default",
        help="how the host's nodes are used",
    )
    host_nodes: tuple[int, ...] = opt(
        NumberSet(MAX_HOST_NODES - 1), default=(), help="nodes of the host"
    )
    share: bool = opt(OnOff(), default=False, help="map it shared")
    prealloc: bool = opt(OnOff(), default=False, help="allocate all of it at start")
    dump: bool = opt(OnOff(), default=True, help="keep it in core dumps")

    def check(self) -> None:
        """A policy needs nodes and nodes need a policy."""
        if (self.policy == "default") == bool(self.host_nodes):
            raise ValueError("policy (but default) and host-nodes go together")


class MemoryBackendRam(MemoryBackend, flag="-object memory-backend-ram"):
    """Anonymous memory of one NUMA node."""


class MemoryBackendFile(MemoryBackend, flag="-object memory-backend-file"):
    """Memory of one NUMA node in a file, on hugetlbfs for instance."""

    mem_path: str = opt(
        PathName(),
        help="the file (empty, absent or as long as size), or a folder for a nameless one",
    )


class MemoryBackendMemfd(MemoryBackend, flag="-object memory-backend-memfd"):
    """Memory of one NUMA node in an anonymous file."""

    hugetlb: bool = opt(OnOff(), default=False, help="of huge pages")


class RngRandom(Options, flag="-object rng-random"):
    """A source of random bytes for an entropy device."""

    id: str = opt(Identifier(), help="name that the device refers to")
    filename: str = opt(
        PathName(), default="/dev/urandom", help="character device that gives random bytes"
    )


OBJECTS = Family(
    "-object",
    key="qom-type",
    noun="object",
    variants={
        "iothread": Iothread,
        "memory-backend-ram": MemoryBackendRam,
        "memory-backend-file": MemoryBackendFile,
        "memory-backend-memfd": MemoryBackendMemfd,
        "rng-random": RngRandom,
    },
)
