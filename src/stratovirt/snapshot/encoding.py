"""The bytes of a machine's state: a header, and the tree of states as JSON.

They go to a file, a socket or anything else; ``docs/snapshot.md`` describes them.
"""

from __future__ import annotations

import hashlib
import json
import struct

from stratovirt.snapshot.errors import SnapshotError
from stratovirt.snapshot.tree import Tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MAGIC = b"SVSTATE\0"
FORMAT = 2
"""Version of the header and of the tree; the structs in it have versions of their own."""
HEADER = struct.Struct("<8sIxxxxQ32s")
"""Magic, format version, bytes of the body, their SHA-256; the body is JSON in UTF-8."""
MOST_BYTES = 64 << 20
"""Largest body that is read: 254 vCPUs take 9 MiB."""
MOST_VALUES = 1 << 19
"""Most JSON values in the body: a vCPU has about 700."""


def encode(tree: Tree) -> bytes:
    """The bytes of a tree."""
    return sealed(json.dumps(tree.to_json(), separators=(",", ":")).encode())


def sealed(body: bytes) -> bytes:
    """A body behind the header that announces it."""
    return HEADER.pack(MAGIC, FORMAT, len(body), hashlib.sha256(body).digest()) + body


def decode(read: Callable[[int], bytes]) -> Tree:
    """The tree whose bytes `read` gives, so many at most as it is asked for.

    Raises SnapshotError and ConfigError if they are damaged or end early.
    """
    head = read(HEADER.size)
    if len(head) < HEADER.size or not head.startswith(MAGIC):
        raise SnapshotError("state is not the state of a machine")
    _, version, size, digest = HEADER.unpack(head)
    if version != FORMAT:
        raise SnapshotError(f"state has format {version}; this program reads format {FORMAT}")
    if size > MOST_BYTES:
        raise SnapshotError(f"state is longer than {MOST_BYTES >> 20} MiB")
    text = read(size)
    if len(text) != size:
        raise SnapshotError(f"state has {len(text)} bytes where it announces {size}")
    if hashlib.sha256(text).digest() != digest:
        raise SnapshotError("state is damaged: its checksum does not fit")
    # A parsed value takes many times its bytes in the file.
    if sum(map(text.count, (b",", b"[", b"{"))) > MOST_VALUES:
        raise SnapshotError(f"state has more than {MOST_VALUES} values")
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SnapshotError(f"state is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise SnapshotError("state is not a JSON object")
    return Tree.from_json(body)
