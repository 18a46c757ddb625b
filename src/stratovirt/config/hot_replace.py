"""Block nodes that QMP adds to a running machine, and options common to devices in slots."""

from __future__ import annotations

from stratovirt.config.devices import QUEUE_LARGEST, QUEUE_SMALLEST, VECTORS_MOST
from stratovirt.config.drive import IOPS_HIGHEST
from stratovirt.config.kinds import (
    Choice,
    Identifier,
    Integer,
    Only,
    OnOff,
    PathName,
    PowerOfTwo,
    Reference,
)
from stratovirt.config.options import Nested, Options, opt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.host.request import Named

BLOCK_SLOTS = 4
NET_SLOTS = 2


class BlockdevFile(Options, flag="blockdev-add file"):
    """The file of a block node."""

    driver: str = opt(Choice("file", "host_device"), default="file", help="kind of file")
    filename: str = opt(PathName(), help="image file or block device on the host")
    aio: str = opt(
        Choice("io_uring", "native", "threads", "off"),
        default="io_uring",
        help="io_uring or native: many requests in flight; threads or off: one after the other",
    )


class BlockdevCache(Options, flag="blockdev-add cache"):
    """The use of the host's page cache by a block node."""

    direct: bool = opt(OnOff(), default=True, help="bypass it (O_DIRECT)")
    no_flush: bool = opt(
        Only(False), default=False, help="must be off: what the guest flushes is written"
    )


class Blockdev(Options, flag="blockdev-add"):
    """A block back end for a later device_add."""

    node_name: str = opt(Identifier(), help="name that the device refers to")
    driver: str = opt(Choice("raw"), default="raw", help="image format")
    file: BlockdevFile = opt(Nested(BlockdevFile), help="the file")
    cache: BlockdevCache = opt(
        Nested(BlockdevCache), default=BlockdevCache(), help="use of the page cache"
    )
    read_only: bool = opt(OnOff(), default=False, help="refuse writes")
    discard: str = opt(
        Choice("unmap", "on"),
        default="unmap",
        help="give what the guest discards back to the host; the only way there is",
    )
    iops_total: int = opt(
        Integer(0, IOPS_HIGHEST),
        default=0,
        key="throttling.iops-total",
        help="requests a second at most; 0 for no limit",
    )

    def names(self) -> Named:
        """The image, in its mode."""
        from stratovirt.block.image_files import ImageRequest
        from stratovirt.host.request import Named

        image = ImageRequest(
            path=self.file.filename, readonly=self.read_only, direct=self.cache.direct
        )
        return Named([image])


class InSlot(Options):
    """A device whose rings the guest knows already."""

    queue_size: int | None = opt(
        PowerOfTwo(QUEUE_SMALLEST, QUEUE_LARGEST),
        default=None,
        help="descriptors in the ring of each queue of data: those the slot has",
    )
    vectors: int | None = opt(
        Integer(0, VECTORS_MOST), default=None, help="no effect: a slot has one line"
    )
    iothread: str | None = opt(
        Reference("-object iothread", shared=True), default=None, help="id of an -object iothread"
    )
