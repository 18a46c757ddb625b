"""virtio-blk (virtio 1.2, section 5.2): a disk."""

from __future__ import annotations

from stratovirt.config.buses import DeviceId
from stratovirt.config.devices import (
    BLOCK_QUEUES_MOST,
    BOOTINDEX_LAST,
    SERIAL_LONGEST,
    SentWithDisk,
    WithQueueSize,
)
from stratovirt.config.driver import DeviceOptions, over_mmio_and_pci
from stratovirt.config.kinds import Identifier, Integer, Reference, Text
from stratovirt.config.options import opt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.config.driver import HotPlugged, HotReplaced
    from stratovirt.devices.device_host import DeviceHost
    from stratovirt.virtio.blk import Blk


class Disk(DeviceOptions):
    """Which disk."""

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


class VirtioBlk(SentWithDisk, WithQueueSize, Disk):
    """Block device (virtio 1.2, section 5.2)."""


def make(options: VirtioBlk, host: DeviceHost) -> Blk:
    """The disk with its drive."""
    from stratovirt.block.image import Image
    from stratovirt.virtio.blk import Blk

    name = options.id or f"virtio-blk({options.drive})"
    iothread = host.iothread(options.iothread)
    image = Image(host.config.drives[options.drive], host.access)
    try:
        disk = Blk(name, options.num_queues, host, queue_size=options.queue_size)
    except Exception:
        image.close()
        raise
    disk.insert(image, options.serial, iothread, options.physical_block_size)
    return disk


def _in_slot() -> HotReplaced:
    from stratovirt.hotplug.virtio_blk import IN_SLOT

    return IN_SLOT


def _behind_port() -> HotPlugged:
    from stratovirt.hotplug.virtio_blk import BEHIND_PORT

    return BEHIND_PORT


DRIVERS = over_mmio_and_pci(
    "virtio-blk",
    VirtioBlk,
    make,
    device_id=DeviceId.BLOCK,
    hot_replaced=_in_slot,
    hot_plugged=_behind_port,
    slot_aliases=("virtio-blk-mmio",),
    native=("stratovirt._native.block_engine", "stratovirt._native.disk"),
)
