"""The board and what it is made of: -machine, -accel, -cpu, -smp, -m."""

from __future__ import annotations

from stratovirt.config.kinds import Choice, Integer, OnOff, PathName, Size, Text
from stratovirt.config.options import Options, opt

MIB = 1 << 20
GIB = 1 << 30
MAX_VCPUS = 254
"""The guidebook's limit: eight-bit APIC ids without the broadcast id and the IOAPIC's."""


class Machine(Options, flag="-machine", first="type"):
    """The machine type and its properties."""

    type: str = opt(
        Choice("microvm", "none", "q35", "virt"),
        default="microvm",
        help="the board; none answers QMP only",
    )
    dump_guest_core: bool = opt(OnOff(), default=True, help="keep guest memory in core dumps")
    mem_share: bool = opt(OnOff(), default=False, help="map guest memory shared")
    accel: str | None = opt(Choice("kvm", "test"), default=None, help="what runs the vCPUs")
    usb: bool = opt(Choice("off"), default="off", help="accepted for libvirt; only off exists")


class Accel(Options, flag="-accel", first="accel"):
    """What runs the vCPUs."""

    accel: str = opt(Choice("kvm", "test"), help="kvm, or test: no vCPU, a client plays it")


class Smp(Options, flag="-smp", first="cpus"):
    """Virtual CPUs and their topology."""

    cpus: int = opt(Integer(1, MAX_VCPUS), default=1, help="vCPUs at start")
    maxcpus: int | None = opt(Integer(1, MAX_VCPUS), default=None, help="vCPUs at most")
    sockets: int | None = opt(Integer(1, MAX_VCPUS), default=None, help="CPU packages")
    dies: int = opt(Integer(1, MAX_VCPUS), default=1, help="dies in a socket")
    clusters: int = opt(Integer(1, MAX_VCPUS), default=1, help="clusters in a die")
    cores: int | None = opt(Integer(1, MAX_VCPUS), default=None, help="cores in a cluster")
    threads: int | None = opt(Integer(1, MAX_VCPUS), default=None, help="threads in a core")

    def check(self) -> None:
        """The product rule of the guidebook's section 1.2."""
        maximum = self.maximum
        if maximum < self.cpus:
            raise ValueError(f"maxcpus ({maximum}) must be at least cpus ({self.cpus})")
        product = self.topology.count
        if product != maximum:
            raise ValueError(
                f"sockets * dies * clusters * cores * threads is {product} "
                f"but must equal maxcpus ({maximum})"
            )

    @property
    def maximum(self) -> int:
        """The number of vCPUs the machine can have."""
        return self.cpus if self.maxcpus is None else self.maxcpus

    @property
    def topology(self) -> Topology:
        """The full topology: what is not given follows from maxcpus, sockets first."""
        fixed = self.dies * self.clusters
        cores, threads, sockets = self.cores, self.threads, self.sockets
        if sockets is None:
            sockets = max(1, self.maximum // (fixed * (cores or 1) * (threads or 1)))
            cores, threads = cores or 1, threads or 1
        elif cores is None:
            cores = max(1, self.maximum // (sockets * fixed * (threads or 1)))
            threads = threads or 1
        elif threads is None:
            threads = max(1, self.maximum // (sockets * fixed * cores))
        return Topology(sockets, self.dies, self.clusters, cores, threads)


class Topology:
    """How many of each level the next level up holds."""

    __slots__ = ("clusters", "cores", "dies", "sockets", "threads")

    def __init__(self, sockets: int, dies: int, clusters: int, cores: int, threads: int) -> None:
        self.sockets, self.dies, self.clusters = sockets, dies, clusters
        self.cores, self.threads = cores, threads

    @property
    def count(self) -> int:
        """All hardware threads."""
        return self.sockets * self.dies * self.clusters * self.cores * self.threads


class Memory(Options, flag="-m", first="size"):
    """Guest memory."""

    size: int = opt(
        Size(256 * MIB, 512 * GIB),
        default=256 * MIB,
        help="size of guest memory; M when no unit is given",
    )


class Cpu(Options, flag="-cpu", first="model"):
    """The CPU model."""

    model: str = opt(Choice("host"), default="host", help="host: what KVM offers on this CPU")


class Kernel(Options, flag="-kernel", first="path"):
    """The kernel to boot directly."""

    path: str = opt(PathName(), help="bzImage, ELF vmlinux or raw image")


class Name(Options, flag="-name", first="guest"):
    """The machine's name."""

    guest: str = opt(Text(), help="name shown by management tools")
