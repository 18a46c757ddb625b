"""Properties that the options of several -device drivers have."""

from __future__ import annotations

from stratovirt.config.address_kinds import PciAddress
from stratovirt.config.kinds import Choice, Identifier, Integer, NoRom, Only, OnOff, PowerOfTwo
from stratovirt.config.options import Options, opt

SERIAL_LONGEST = 20
"""VIRTIO_BLK_ID_BYTES, virtio 1.2, section 5.2.6."""
BLOCK_QUEUES_MOST = 32
BOOTINDEX_LAST = 255
CONSOLES_MOST = 8
"""hvc0 to hvc7 (guidebook, section 2.4)."""

QUEUE_SIZE, QUEUE_LARGEST = 256, 1024
"""Descriptors of a ring: as a rule, and as many as one chain may have."""
QUEUE_SMALLEST = 4
"""A request of a disk has a header, a status, and data between them."""
VECTORS_MOST = 2048
"""What the size field of an MSI-X table can say."""
BLOCK_LARGEST = 32768
"""QEMU's limit for the blocks of a disk."""


class Sent(Options):
    """Properties that managers send with every device; only values without effect are taken."""

    romfile: str = opt(NoRom(), default="", help="must be empty: devices have no option ROM")
    disable_modern: bool = opt(Only(False), default=False, help="must be off")


class SentWithDisk(Sent):
    """Properties that managers send with every disk."""

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
    """A place on a PCI bus."""

    bus: str = opt(Identifier(), help="bus to attach to: pcie.0 or the id of a root port")
    addr: tuple[int, int] = opt(PciAddress(), help="SLOT.FUNCTION on the bus")
    multifunction: bool = opt(OnOff(), default=False, help="more functions share the slot")


class VirtioPciPlace(PciPlace):
    """A place on a PCI bus, and the interrupt vectors of a virtio device there."""

    vectors: int | None = opt(
        Integer(0, VECTORS_MOST),
        default=None,
        help="MSI-X vectors; 0: the pin only; one for each queue and one more if missing",
    )


class SingleFunctionPlace(VirtioPciPlace):
    """A place on a PCI bus for a device that the guidebook calls a single function device."""

    def check(self) -> None:
        """It has function 0 (sections 2.3 and 2.8)."""
        super().check()
        if self.addr[1]:
            raise ValueError(
                f"addr must have function 0 for a single function device, not {self.addr[1]}"
            )
