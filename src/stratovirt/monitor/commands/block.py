"""Queries of disks, images and block statistics."""

from __future__ import annotations

from stratovirt.monitor.registry import NoArguments, command
from stratovirt.monitor.schema import ListOf, Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.block.image import Image
    from stratovirt.monitor.session import Session

CACHE_INFO = Struct(
    "BlockdevCacheInfo", {"writeback": "bool", "direct": "bool", "no-flush": "bool"}
)
IMAGE_INFO = Struct(
    "ImageInfo", {"filename": "str", "format": "str", "virtual-size": "int", "actual-size?": "int"}
)
NODE_INFO = Struct(
    "BlockDeviceInfo",
    {
        "node-name": "str", "drv": "str", "file": "str", "ro": "bool", "encrypted": "bool",
        "cache": CACHE_INFO, "image": IMAGE_INFO, "iops": "int", "bps": "int",
    },
)  # fmt: skip
BLOCK_INFO = Struct(
    "BlockInfo",
    {
        "device": "str", "qdev?": "str", "type": "str", "removable": "bool", "locked": "bool",
        "inserted?": NODE_INFO,
    },
)  # fmt: skip
DEVICE_STATS = Struct(
    "BlockDeviceStats",
    {
        "rd_bytes": "int", "wr_bytes": "int", "rd_operations": "int", "wr_operations": "int",
        "flush_operations": "int",
    },
)  # fmt: skip
STATS = Struct("BlockStats", {"device": "str", "qdev?": "str", "stats": DEVICE_STATS})
JOB_INFO = Struct("BlockJobInfo", {"type": "str", "device": "str"})


def _node(image: Image) -> dict[str, object]:
    drive = image.drive
    size = image.sectors * 512
    return {
        "node-name": drive.id,
        "drv": drive.format,
        "file": drive.file,
        "ro": drive.readonly,
        "encrypted": False,
        "cache": {"writeback": True, "direct": drive.direct, "no-flush": False},
        "image": {"filename": drive.file, "format": drive.format, "virtual-size": size},
        "iops": drive.throttling_iops_total,
        "bps": 0,
    }


@command("query-block", answer=ListOf(BLOCK_INFO))
def query_block(session: Session, _arguments: NoArguments) -> object:
    """List the disks and what is in them."""
    return [
        {
            "device": image.drive.id,
            "qdev": disk.name,
            "type": "unknown",
            "removable": False,
            "locked": False,
            "inserted": _node(image),
        }
        for disk, image in session.vm.machine.disks
    ]


@command("query-named-block-nodes", answer=ListOf(NODE_INFO))
def query_named_block_nodes(session: Session, _arguments: NoArguments) -> object:
    """List the open images."""
    machine = session.vm.machine
    used = (image for _, image in machine.disks)
    return [_node(image) for image in (*used, *machine.inventory.nodes.free)]


@command("query-blockstats", answer=ListOf(STATS))
def query_blockstats(session: Session, _arguments: NoArguments) -> object:
    """Count what each disk has done since the machine started, or its medium came."""
    return [
        {"device": image.drive.id, "qdev": disk.name, "stats": disk.statistics()}
        for disk, image in session.vm.machine.disks
    ]


@command("query-block-jobs", answer=ListOf(JOB_INFO))
def query_block_jobs(_session: Session, _arguments: NoArguments) -> object:
    """List the block jobs; this VMM has none."""
    return []
