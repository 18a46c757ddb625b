"""The folder of a snapshot: ``state`` and ``memory``, there as a whole or not at all.

It is written under another name beside its place, made durable, and renamed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import struct

from stratovirt._native.rename import exchange
from stratovirt.snapshot.state import SnapshotError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

STATE, MEMORY = "state", "memory"
MAGIC = b"SVSTATE\0"
FORMAT = 1
HEADER = struct.Struct("<8sIxxxxQ32s")
"""Magic, format version, bytes of the body, their SHA-256; the body is JSON in UTF-8."""
MOST_BYTES = 64 << 20
"""Longest body read: 254 vCPUs take 9 MiB."""


def encode(body: Mapping[str, object]) -> bytes:
    """The content of a ``state`` file."""
    text = json.dumps(body, separators=(",", ":")).encode()
    return HEADER.pack(MAGIC, FORMAT, len(text), hashlib.sha256(text).digest()) + text


def decode(content: bytes) -> dict[str, object]:
    """What a ``state`` file holds; raises SnapshotError unless it is whole and undamaged."""
    if len(content) < HEADER.size or not content.startswith(MAGIC):
        raise SnapshotError("state is not the state of a machine")
    _, version, size, digest = HEADER.unpack_from(content)
    if version != FORMAT:
        raise SnapshotError(f"state has format {version}; this program reads format {FORMAT}")
    text = content[HEADER.size :]
    if len(text) != size:
        raise SnapshotError(f"state has {len(text)} bytes where it announces {size}")
    if hashlib.sha256(text).digest() != digest:
        raise SnapshotError("state is damaged: its checksum does not fit")
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SnapshotError(f"state is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise SnapshotError("state is not a JSON object")
    return body


def read_state(folder: str) -> dict[str, object]:
    """What the folder's ``state`` holds; raises SnapshotError or OSError."""
    with open(os.path.join(folder, STATE), "rb") as file:
        if os.fstat(file.fileno()).st_size > MOST_BYTES:
            raise SnapshotError(f"state is longer than {MOST_BYTES >> 20} MiB")
        return decode(file.read(MOST_BYTES + 1))


class Draft:
    """A snapshot being written: `commit` puts it in its place, `discard` leaves nothing.

    `memory_fd` and `state_fd` are its files, a hole of the size of RAM and empty at first.

    Raises SnapshotError when the place is no folder or holds other things than a snapshot, or
    when somebody else writes to it; OSError when the host does not let us.
    """

    def __init__(self, place: str, memory_bytes: int) -> None:
        self._place = os.path.abspath(place)
        _check_place(self._place)
        parent, name = os.path.split(self._place)
        self._draft = os.path.join(parent, f".{name}.partial")
        # Left from a process that died in the middle, perhaps.
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._draft, 0o700)
        self._lock = os.open(self._draft, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _empty(self._draft)
            self.memory_fd = self._create(MEMORY)
            os.ftruncate(self.memory_fd, memory_bytes)
            self.state_fd = self._create(STATE)
        except BaseException as error:
            if not isinstance(error, BlockingIOError):
                _remove(self._draft)
            os.close(self._lock)
            if isinstance(error, BlockingIOError):
                raise SnapshotError(f"{place}: another snapshot is being written there") from None
            raise

    def _create(self, name: str) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return os.open(os.path.join(self._draft, name), flags, 0o600)

    def commit(self) -> None:
        """Put it in its place, instead of an earlier one; raises OSError or SnapshotError.

        Whoever wrote the files has made them durable.
        """
        os.fsync(self._lock)
        if os.path.isdir(self._place):
            try:
                exchange(self._draft, self._place)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                raise SnapshotError(
                    f"{self._place}: this file system cannot replace a folder; name a new one"
                ) from None
            _remove(self._draft)
        else:
            os.rename(self._draft, self._place)
        parent = os.open(os.path.dirname(self._place), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)
        self._close()

    def discard(self) -> None:
        """Leave nothing."""
        _remove(self._draft)
        self._close()

    def _close(self) -> None:
        for fd in (self.memory_fd, self.state_fd, self._lock):
            os.close(fd)


def _check_place(place: str) -> None:
    try:
        names = set(os.listdir(place))
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise SnapshotError(f"{place} is not a folder") from None
    if names - {STATE, MEMORY}:
        raise SnapshotError(f"{place} holds other things than a snapshot, {min(names)[:80]}")


def _empty(folder: str) -> None:
    for name in (STATE, MEMORY):
        try:
            os.unlink(os.path.join(folder, name))
        except FileNotFoundError:
            continue


def _remove(folder: str) -> None:
    _empty(folder)
    try:
        os.rmdir(folder)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
