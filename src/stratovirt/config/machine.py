"""The board and what it is made of: -machine, -smp, -m, -kernel and their kin."""

from __future__ import annotations

import os

from stratovirt.architectures import BOARDS_TO_COME, DEFAULT_BOARD, NO_BOARD, all_boards
from stratovirt.config.kinds import Choice, Integer, Kind, OnOff, PathName, Size, Text
from stratovirt.config.options import Options, opt

MIB = 1 << 20
GIB = 1 << 30
RAM_GRAIN = 8192
"""QEMU rounds -m up to this."""
MAX_VCPUS = max(board.vcpus_most for board in all_boards())
RAM_MOST = max(board.ram_most for board in all_boards())
"""The largest board's; what the chosen board has at most is checked with the board."""
MACHINE_TYPES = sorted({NO_BOARD, *BOARDS_TO_COME, *(board.name for board in all_boards())})

COMMAND_LINE_LONGEST = 65535
"""More than any kernel takes; what this one takes is checked when it is loaded."""


class KernelText(Kind["str"]):
    """A kernel command line; it may be empty."""

    allowed = "a kernel command line"

    def parse(self, text: str) -> str:
        """The text itself."""
        if "\0" in text:
            raise ValueError("a kernel command line without NUL characters")
        if len(os.fsencode(text)) > COMMAND_LINE_LONGEST:
            raise ValueError(f"at most {COMMAND_LINE_LONGEST} bytes")
        return text


class CpuModel(Text):
    """A CPU model and its features, as QEMU's users write them."""

    def __init__(self) -> None:
        super().__init__("a CPU model such as host", 4096)


class Machine(Options, flag="-machine", first="type"):
    """The machine type and its properties."""

    type: str = opt(
        Choice(*MACHINE_TYPES),
        default=DEFAULT_BOARD,
        help="the board; none answers QMP only",
    )
    dump_guest_core: bool = opt(OnOff(), default=True, help="keep guest memory in core dumps")
    mem_share: bool = opt(OnOff(), default=False, help="map guest memory shared")
    accel: str | None = opt(Choice("kvm", "test"), default=None, help="what runs the vCPUs")
    hot_replace: bool = opt(
        OnOff(),
        default=True,
        help="a microvm with a monitor has four disks and two cards in all for device_add to fill; "
        "its guest sees empty ones, off leaves those out",
    )
    usb: bool = opt(Choice("off"), default="off", help="accepted for libvirt; only off exists")


class Accel(Options, flag="-accel", first="accel"):
    """The accelerator, which runs the vCPUs."""

    accel: str = opt(Choice("kvm", "test"), help="kvm, or test: no vCPU, a client plays it")


class Smp(Options, flag="-smp", first="cpus"):
    """Virtual CPUs and their topology."""

    cpus: int = opt(Integer(1, MAX_VCPUS), default=1, help="vCPUs at start")
    maxcpus: int | None = opt(Integer(1, MAX_VCPUS), default=None, help="vCPUs at most")
    sockets: int | None = opt(
        Integer(1, MAX_VCPUS), default=None, help="CPU packages; one unless cores= is given"
    )
    dies: int = opt(Integer(1, MAX_VCPUS), default=1, help="dies in a socket")
    clusters: int = opt(Integer(1, MAX_VCPUS), default=1, help="clusters in a die")
    cores: int | None = opt(
        Integer(1, MAX_VCPUS), default=None, help="cores in a cluster; as many as make up maxcpus"
    )
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
        """The full topology: what is not given follows from maxcpus, cores first (as QEMU 6.2)."""
        fixed = self.dies * self.clusters
        cores, threads, sockets = self.cores, self.threads, self.sockets
        if cores is None:
            sockets, threads = sockets or 1, threads or 1
            cores = max(1, self.maximum // (sockets * fixed * threads))
        elif sockets is None:
            threads = threads or 1
            sockets = max(1, self.maximum // (fixed * cores * threads))
        elif threads is None:
            threads = max(1, self.maximum // (sockets * fixed * cores))
        return Topology(sockets, self.dies, self.clusters, cores, threads)


class Topology:
    """The number of CPUs or groups of each level in a group of the next level up."""

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
        Size(256 * MIB, RAM_MOST, grain=RAM_GRAIN),
        default=256 * MIB,
        help="size of guest memory; M when no unit is given, rounded up to 8 KiB",
    )


class MemPath(Options, flag="-mem-path", whole="path"):
    """Back guest memory by a file, on hugetlbfs for instance."""

    path: str = opt(
        PathName(absolute=True),
        help="the file (empty, absent or as long as memory), or a folder for a nameless one",
    )


class MemPrealloc(Options, flag="-mem-prealloc"):
    """Allocate all of guest memory at start."""


class Cpu(Options, flag="-cpu", whole="model"):
    """The CPU model; what is not host is accepted for libvirt and means host as well."""

    model: str = opt(CpuModel(), default="host", help="host: what KVM offers on this CPU")


class Kernel(Options, flag="-kernel", whole="path"):
    """The kernel to boot directly."""

    path: str = opt(PathName(), help="bzImage, ELF vmlinux or raw image")


class Initrd(Options, flag="-initrd", whole="path"):
    """The initial RAM disk."""

    path: str = opt(PathName(), help="file that is loaded beside the kernel")


class Append(Options, flag="-append", whole="text"):
    """The kernel's command line."""

    text: str = opt(KernelText(), help="handed to the kernel as it is")
