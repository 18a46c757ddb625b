"""Disks that come and go while the machine runs."""

from __future__ import annotations

from stratovirt.config.devices import BLOCK_QUEUES_MOST, SERIAL_LONGEST, SentWithDisk
from stratovirt.config.driver import DeviceOptions, HotPlugged, HotReplaced
from stratovirt.config.hot_replace import BLOCK_SLOTS, InSlot
from stratovirt.config.hotplug import HotVirtio
from stratovirt.config.kinds import Identifier, Integer, Reference, Text
from stratovirt.config.options import opt
from stratovirt.virtio.blk import Blk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.machine.hot_plug import HotPlug
    from stratovirt.machine.hot_replace import HotReplace


class HotDisk(DeviceOptions):
    """Which disk, while the machine runs."""

    drive: str | None = opt(
        Reference("blockdev-add"), default=None, help="node-name of the back end; the id if missing"
    )
    serial: str | None = opt(
        Text(longest=SERIAL_LONGEST), default=None, help=f"up to {SERIAL_LONGEST} characters"
    )


class PluggedBlk(HotDisk, HotVirtio, SentWithDisk, flag="device_add virtio-blk-pci"):
    """A disk behind a root port."""

    num_queues: int = opt(Integer(1, BLOCK_QUEUES_MOST), default=1, help="request queues")


class BlkInSlot(HotDisk, SentWithDisk, InSlot, flag="device_add virtio-blk-mmio"):
    """A disk in a hot-replace slot."""

    id: str = opt(Identifier(), help="device name")
    addr: int = opt(Integer(0, BLOCK_SLOTS - 1), help="slot")
    num_queues: int | None = opt(
        Integer(1, BLOCK_QUEUES_MOST), default=None, help="request queues: those the slot has"
    )


def plug(options: PluggedBlk, hot_plug: HotPlug) -> Blk:
    """The disk with its block node."""
    iothread = hot_plug.iothread(options.iothread)
    nodes, name = hot_plug.inventory.nodes, options.drive or options.id
    image = nodes.take(name, options.id)
    try:
        disk = Blk(options.id, options.num_queues, hot_plug.host, queue_size=options.queue_size)
    except Exception:
        nodes.give_back(name, image)
        raise
    disk.insert(image, options.serial, iothread, options.physical_block_size)
    return disk


def give_back(disk: Blk, hot_plug: HotPlug) -> None:
    """Return the disk's block node to the free ones."""
    image = disk.eject()
    hot_plug.inventory.nodes.give_back(image.drive.id, image)


def adopt(disk: Blk, slots: HotReplace) -> None:
    """Make a disk of the command line one whose medium may be ejected."""
    disk.idle_thread = slots.idle_thread


def make_empty(name: str, slots: HotReplace) -> Blk:
    """A disk without a medium."""
    return Blk(name, 1, slots.host, slots.idle_thread)


def insert(options: BlkInSlot, disk: Blk, slots: HotReplace) -> None:
    """Give the disk of a slot a medium; raises HotPlugError."""
    if disk.image is not None:
        raise slots.refusal(f"block slot {options.addr} is taken by {disk.name}")
    queues = len(disk.queue_sizes)
    if options.num_queues not in (None, queues):
        raise slots.refusal(
            f"{options.id}: num-queues must be {queues} in block slot "
            f"{options.addr}, not {options.num_queues}"
        )
    slots.check_ring(options, f"block slot {options.addr}", disk)
    iothread = slots.iothread(options.iothread)
    image = slots.inventory.nodes.take(options.drive or options.id, options.id)
    disk.name = options.id
    disk.insert(image, options.serial, iothread, options.physical_block_size)


def eject(disk: Blk) -> None:
    """Complete the requests in flight and close the medium."""
    disk.eject().close()


IN_SLOT = HotReplaced(
    BlkInSlot,
    noun="block slot",
    count=BLOCK_SLOTS,
    adopt=adopt,
    make_empty=make_empty,
    fill=insert,
    empty=eject,
)
BEHIND_PORT = HotPlugged(PluggedBlk, plug, give_back)
