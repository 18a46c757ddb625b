"""The -device drivers: each is a typed definition, once for virtio-mmio and once for PCI."""

from __future__ import annotations

from stratovirt.config.kinds import (
    Choice,
    DescriptorList,
    HostPciAddress,
    Identifier,
    Integer,
    MacAddress,
    NoRom,
    Only,
    OnOff,
    PciAddress,
    PowerOfTwo,
    Reference,
    Text,
)
from stratovirt.config.options import Family, Options, opt

SERIAL_LONGEST = 20
"""VIRTIO_BLK_ID_BYTES, virtio 1.2, section 5.2.6."""
BLOCK_QUEUES_MOST = 32
BOOTINDEX_LAST = 255
CONSOLES_MOST = 8
"""hvc0 to hvc7 (guidebook, section 2.4)."""
CID_LOWEST, CID_HIGHEST = 3, (1 << 32) - 2
"""Context ids below 3 are the hypervisor's, the local and the host's; the highest is "any"."""
RATE_LOWEST, RATE_LIMIT = 64, 1_000_000_000
"""Bytes a second that virtio-rng may be held to: the lowest, and the first beyond the highest."""

QUEUE_SIZE, QUEUE_LARGEST = 256, 1024
"""Descriptors of a ring: as a rule, and as many as one chain may have."""
QUEUE_SMALLEST = 4
"""A request of a disk has a header, a status, and data between them."""
VECTORS_MOST = 2048
"""What the size field of an MSI-X table can say."""
BLOCK_LARGEST = 32768
"""QEMU's limit for the blocks of a disk."""


class Sent(Options):
    """What managers send with every device; only what changes nothing here is taken."""

    romfile: str = opt(NoRom(), default="", help="must be empty: devices have no option ROM")
    disable_modern: bool = opt(Only(False), default=False, help="must be off")


class SentWithDisk(Sent):
    """What managers send with every disk."""

    share_rw: bool = opt(OnOff(), default=False, help="no effect: the image stays locked")
    write_cache: str = opt(
        Choice("on", "auto"), default="auto", help="the guest's flushes are always obeyed"
    )
    logical_block_size: int = opt(
        Integer(512, 512), default=512, key="logical_block_size", help="bytes of a sector"
    )
    physical_block_size: int = opt(
        PowerOfTwo(512, BLOCK_LARGEST),
        default=512,
        key="physical_block_size",
        help="bytes that the guest should write at once; the host's where that is more",
    )


class WithQueueSize(Options):
    """A device whose rings may be larger or smaller."""

    queue_size: int = opt(
        PowerOfTwo(QUEUE_SMALLEST, QUEUE_LARGEST),
        default=QUEUE_SIZE,
        help="descriptors in the ring of each queue of data",
    )


class PciPlace(Options):
    """Where on a PCI bus."""

    bus: str = opt(Identifier(), help="bus to attach to: pcie.0 or the id of a root port")
    addr: tuple[int, int] = opt(PciAddress(), help="SLOT.FUNCTION on the bus")
    multifunction: bool = opt(OnOff(), default=False, help="more functions share the slot")


class VirtioPciPlace(PciPlace):
    """Where on a PCI bus, and how a virtio device interrupts from there."""

    vectors: int | None = opt(
        Integer(0, VECTORS_MOST),
        default=None,
        help="MSI-X vectors; 0: the pin only; one for each queue and one more if missing",
    )


class SingleFunctionPlace(VirtioPciPlace):
    """Where on a PCI bus, for a device that the guidebook calls a single function device."""

    def check(self) -> None:
        """It has function 0 (sections 2.3 and 2.8)."""
        super().check()
        if self.addr[1]:
            raise ValueError(
                f"addr must have function 0 for a single function device, not {self.addr[1]}"
            )


class VirtioBlk(Options):
    """Block device (virtio 1.2, section 5.2)."""

    drive: str = opt(Reference("-drive"), help="id of a -drive")
    id: str | None = opt(Identifier(), default=None, help="device name")
    serial: str | None = opt(
        Text(longest=SERIAL_LONGEST), default=None, help=f"up to {SERIAL_LONGEST} characters"
    )
    iothread: str | None = opt(
        Reference("-object iothread", shared=True), default=None, help="id of an -object iothread"
    )
    num_queues: int = opt(Integer(1, BLOCK_QUEUES_MOST), default=1, help="request queues")
    bootindex: int | None = opt(
        Integer(0, BOOTINDEX_LAST), default=None, help="the firmware boots the lowest first"
    )


class VirtioBlkDevice(SentWithDisk, WithQueueSize, VirtioBlk, flag="-device virtio-blk-device"):
    """Block device (virtio 1.2, section 5.2) over MMIO."""


class VirtioBlkPci(
    SentWithDisk, WithQueueSize, VirtioPciPlace, VirtioBlk, flag="-device virtio-blk-pci"
):
    """Block device (virtio 1.2, section 5.2) over PCI."""


class VirtioNet(Options):
    """Network card (virtio 1.2, section 5.1)."""

    netdev: str = opt(Reference("-netdev"), help="id of a -netdev")
    id: str | None = opt(Identifier(), default=None, help="device name")
    mac: bytes | None = opt(MacAddress(), default=None, help="address of the card")
    iothread: str | None = opt(
        Reference("-object iothread", shared=True),
        default=None,
        help="id of an -object iothread; no effect with vhost",
    )
    mq: bool = opt(OnOff(), default=False, help="offer all queue pairs of the netdev")
    vhost: bool = opt(OnOff(), default=False, help="as vhost of the netdev")
    vhostfd: tuple[str, ...] = opt(DescriptorList(), default=(), help="as vhostfd of the netdev")
    vhostfds: tuple[str, ...] = opt(DescriptorList(), default=(), help="as vhostfds of the netdev")


class VirtioNetDevice(Sent, WithQueueSize, VirtioNet, flag="-device virtio-net-device"):
    """Network card (virtio 1.2, section 5.1) over MMIO."""


class VirtioNetPci(
    Sent, WithQueueSize, SingleFunctionPlace, VirtioNet, flag="-device virtio-net-pci"
):
    """Network card (virtio 1.2, section 5.1) over PCI."""


class VirtioSerial(Options):
    """Console device (virtio 1.2, section 5.3): carries virtconsole ports."""

    id: str | None = opt(Identifier(), default=None, help="device name")


class VirtioSerialDevice(Sent, VirtioSerial, flag="-device virtio-serial-device"):
    """Console device (virtio 1.2, section 5.3) over MMIO: carries virtconsole ports."""


class VirtioSerialPci(Sent, VirtioPciPlace, VirtioSerial, flag="-device virtio-serial-pci"):
    """Console device (virtio 1.2, section 5.3) over PCI: carries the virtconsole ports behind it.

    There may be several, which is more than the one that the guidebook's section 2.4 promises.
    """


class Virtconsole(Options, flag="-device virtconsole"):
    """A console port of the virtio-serial device: hvc0, hvc1, ... in the guest."""

    chardev: str = opt(Reference("-chardev"), help="id of a -chardev")
    id: str | None = opt(Identifier(), default=None, help="device name")
    nr: int | None = opt(
        Integer(0, CONSOLES_MOST - 1), default=None, help="number of the port: the next, from 0"
    )


class VhostVsock(Options):
    """Socket device (virtio 1.2, section 5.10), run by the kernel's vhost-vsock."""

    guest_cid: int = opt(Integer(CID_LOWEST, CID_HIGHEST), help="the guest's context id")
    id: str | None = opt(Identifier(), default=None, help="device name")
    vhostfd: tuple[str, ...] = opt(
        DescriptorList(), default=(), help="open /dev/vhost-vsock descriptor"
    )


class VhostVsockDevice(Sent, VhostVsock, flag="-device vhost-vsock-device"):
    """Socket device (virtio 1.2, section 5.10) over MMIO, run by the kernel's vhost-vsock."""


class VhostVsockPci(Sent, VirtioPciPlace, VhostVsock, flag="-device vhost-vsock-pci"):
    """Socket device (virtio 1.2, section 5.10) over PCI, run by the kernel's vhost-vsock."""


class VirtioBalloon(Options):
    """Balloon (virtio 1.2, section 5.5)."""

    id: str | None = opt(Identifier(), default=None, help="device name")
    deflate_on_oom: bool = opt(
        OnOff(), default=False, help="give memory back to a guest that runs out"
    )
    free_page_reporting: bool = opt(
        OnOff(), default=False, help="give the host what the guest reports as free"
    )


class VirtioBalloonDevice(Sent, VirtioBalloon, flag="-device virtio-balloon-device"):
    """Balloon (virtio 1.2, section 5.5) over MMIO."""


class VirtioBalloonPci(Sent, VirtioPciPlace, VirtioBalloon, flag="-device virtio-balloon-pci"):
    """Balloon (virtio 1.2, section 5.5) over PCI."""


class VirtioRng(Options):
    """Entropy device (virtio 1.2, section 5.4)."""

    rng: str = opt(Reference("-object rng-random", shared=True), help="id of an -object rng-random")
    id: str | None = opt(Identifier(), default=None, help="device name")
    max_bytes: int | None = opt(
        Integer(1, RATE_LIMIT * 1000), default=None, help="bytes in a period at most"
    )
    period: int | None = opt(
        Integer(1, 1 << 32), default=None, help="period of max-bytes in milliseconds"
    )

    def check(self) -> None:
        """The rate lies in the guidebook's limits (section 2.8)."""
        if (self.max_bytes is None) != (self.period is None):
            raise ValueError("max-bytes and period go together")
        rate = self.bytes_per_second
        if rate is not None and not RATE_LOWEST <= rate < RATE_LIMIT:
            raise ValueError(
                f"max-bytes in period is {rate} bytes a second but must be at least "
                f"{RATE_LOWEST} and less than {RATE_LIMIT}"
            )

    @property
    def bytes_per_second(self) -> int | None:
        """The limit, or None without one."""
        if self.max_bytes is None or self.period is None:
            return None
        return self.max_bytes * 1000 // self.period


class VirtioRngDevice(Sent, VirtioRng, flag="-device virtio-rng-device"):
    """Entropy device (virtio 1.2, section 5.4) over MMIO."""


class VirtioRngPci(Sent, SingleFunctionPlace, VirtioRng, flag="-device virtio-rng-pci"):
    """Entropy device (virtio 1.2, section 5.4) over PCI."""


class PcieRootPort(PciPlace, flag="-device pcie-root-port"):
    """A PCI Express root port: one slot for a device that can be plugged and unplugged."""

    id: str = opt(Identifier(), help="name of the bus behind the port")
    port: int = opt(Integer(0, 255), default=0, help="port number")
    chassis: int | None = opt(Integer(0, 255), default=None, help="accepted for libvirt")


class VfioPci(PciPlace, flag="-device vfio-pci"):
    """A PCI function of the host, passed through."""

    host: str = opt(HostPciAddress(), help="the function on the host")
    id: str | None = opt(Identifier(), default=None, help="device name")


DRIVERS = Family(
    "-device",
    key="driver",
    noun="driver",
    variants={
        "virtio-blk-device": VirtioBlkDevice,
        "virtio-blk-pci": VirtioBlkPci,
        "virtio-net-device": VirtioNetDevice,
        "virtio-net-pci": VirtioNetPci,
        "virtio-serial-device": VirtioSerialDevice,
        "virtio-serial-pci": VirtioSerialPci,
        "virtconsole": Virtconsole,
        "vhost-vsock-device": VhostVsockDevice,
        "vhost-vsock-pci": VhostVsockPci,
        "virtio-balloon-device": VirtioBalloonDevice,
        "virtio-balloon-pci": VirtioBalloonPci,
        "virtio-rng-device": VirtioRngDevice,
        "virtio-rng-pci": VirtioRngPci,
        "pcie-root-port": PcieRootPort,
        "vfio-pci": VfioPci,
    },
)
