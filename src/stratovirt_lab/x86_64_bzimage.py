"""The vmlinux in a bzImage."""

import struct
import tempfile
from pathlib import Path

from stratovirt_lab.cache import cache_dir
from stratovirt_lab.kernels import run_tool

PAYLOAD_OFFSET = 0x248
"""Offset of payload_offset and payload_length in a bzImage (Linux boot protocol 2.08)."""
SETUP_SECTS = 0x1F1


def unpack(bzimage: Path, target: Path) -> None:
    """Decompress the payload of the bzImage, an ELF file."""
    image = bzimage.read_bytes()
    offset, length = struct.unpack_from("<II", image, PAYLOAD_OFFSET)
    start = (image[SETUP_SECTS] + 1) * 512 + offset
    # The last four bytes are the uncompressed size, which is not part of the LZ4 stream.
    payload = image[start : start + length - 4]
    with tempfile.TemporaryDirectory(dir=cache_dir()) as scratch:
        packed = Path(scratch) / "payload.lz4"
        packed.write_bytes(payload)
        run_tool("lz4", "-d", "-f", "-q", str(packed), str(target))
