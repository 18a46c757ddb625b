"""The folder of a snapshot with the files ``state`` and ``memory``, replaced atomically.

It is written under another name beside its place, made durable, and renamed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat

from stratovirt._native.rename import exchange
from stratovirt.host.request import Opened, Request, detail
from stratovirt.snapshot.errors import SnapshotError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.host.request import Kept

STATE, MEMORY = "state", "memory"


def open_folder(place: str) -> int:
    """Open the folder at `place`, following links a last time; raises OSError."""
    return os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def open_inside(folder_fd: int, name: str) -> int:
    """Open a file of a snapshot for reading, without following links or blocking.

    Raises SnapshotError or OSError.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(name, flags, dir_fd=folder_fd)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise SnapshotError(f"{name} is not a regular file")
    return fd


class SnapshotRequest(Request["SnapshotFiles"], kind="snapshot"):
    """Create the files of a new snapshot of `memory_bytes` of guest RAM."""

    place: str
    memory_bytes: int = detail(default=0)

    def open(self, _machine: str = "self", /) -> Opened:
        """Begin the snapshot; raises SnapshotError and OSError."""
        draft = Draft(self.place, self.memory_bytes)
        fds: list[int] = []
        try:
            for fd in (draft.memory_fd, draft.state_fd):
                fds.append(os.dup(fd))
        except OSError:
            for fd in fds:
                os.close(fd)
            draft.discard()
            raise
        return Opened(fds, kept=draft)

    def receive(self, opened: Opened) -> SnapshotFiles:
        """The files, to be written and then committed or discarded."""
        assert opened.kept is not None
        return SnapshotFiles(opened.fds, opened.kept)


class SnapshotFiles:
    """The files of a snapshot being written, and the draft of this process or of the broker."""

    def __init__(self, fds: list[int], draft: Kept) -> None:
        self.memory_fd, self.state_fd = fds
        self._draft = draft

    def commit(self) -> None:
        """Move the snapshot to its place; raises OSError or StratovirtError."""
        self._draft.commit()
        self._close()

    def discard(self) -> None:
        """Remove the unfinished snapshot."""
        self._draft.discard()
        self._close()

    def _close(self) -> None:
        os.close(self.memory_fd)
        os.close(self.state_fd)


class Draft:
    """A snapshot being written: `commit` moves it to its place, `discard` removes it.

    `memory_fd` and `state_fd` are its files, at first a hole of the size of RAM and an empty file.
    Links in the place's path are resolved once, here; all later access is relative to the parent
    folder's descriptor and follows no links.

    Raises SnapshotError when the place is no folder, has other files than a snapshot's, or is
    being written by another process; OSError for errors of the host.
    """

    def __init__(self, place: str, memory_bytes: int) -> None:
        self._place = os.path.realpath(place)
        parent, self._name = os.path.split(self._place)
        self._partial = f".{self._name}.partial"
        self._parent_fd = open_folder(parent)
        try:
            self._check_place()
            # It may exist already, left by a process that was killed.
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._partial, 0o700, dir_fd=self._parent_fd)
            self._lock = self._open_partial()
        except BaseException:
            os.close(self._parent_fd)
            raise
        self.memory_fd = self.state_fd = -1
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._close()
            raise SnapshotError(f"{place}: another snapshot is being written there") from None
        try:
            _empty(self._lock)
            self.memory_fd = self._create(MEMORY)
            os.ftruncate(self.memory_fd, memory_bytes)
            self.state_fd = self._create(STATE)
        except BaseException:
            self.discard()
            raise

    def _check_place(self) -> None:
        try:
            fd = self._open_beside(self._name)
        except FileNotFoundError:
            return
        except NotADirectoryError:
            raise SnapshotError(f"{self._place} is not a folder") from None
        try:
            _check_content(fd, self._place)
        finally:
            os.close(fd)

    def _open_beside(self, name: str) -> int:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, flags, dir_fd=self._parent_fd)

    def _open_partial(self) -> int:
        path = os.path.join(os.path.dirname(self._place), self._partial)
        try:
            fd = self._open_beside(self._partial)
        except NotADirectoryError:
            raise SnapshotError(f"{path} is not a folder of ours; remove it") from None
        try:
            if os.fstat(fd).st_uid != os.geteuid():
                raise SnapshotError(f"{path} is somebody else's; remove it")
            _check_content(fd, path)
        except SnapshotError:
            os.close(fd)
            raise
        return fd

    def _create(self, name: str) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return os.open(name, flags, 0o600, dir_fd=self._lock)

    def commit(self) -> None:
        """Move the snapshot to its place, over an earlier one; raises OSError or SnapshotError.

        The caller has synced both files.
        """
        os.fsync(self._lock)
        try:
            earlier = self._open_beside(self._name)
        except FileNotFoundError:
            os.rename(
                self._partial, self._name, src_dir_fd=self._parent_fd, dst_dir_fd=self._parent_fd
            )
        else:
            try:
                self._replace(earlier)
            finally:
                os.close(earlier)
        os.fsync(self._parent_fd)
        self._close()

    def _replace(self, earlier: int) -> None:
        _check_content(earlier, self._place)
        try:
            exchange(self._parent_fd, self._partial, self._name)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise SnapshotError(
                f"{self._place}: this file system cannot replace a folder; name a new one"
            ) from None
        _empty(earlier)
        os.rmdir(self._partial, dir_fd=self._parent_fd)

    def discard(self) -> None:
        """Remove the unfinished snapshot."""
        try:
            _empty(self._lock)
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(self._partial, dir_fd=self._parent_fd)
        finally:
            self._close()

    def _close(self) -> None:
        for fd in {self.memory_fd, self.state_fd, self._lock, self._parent_fd} - {-1}:
            os.close(fd)


def _check_content(folder_fd: int, place: str) -> None:
    others = set(os.listdir(folder_fd)) - {STATE, MEMORY}
    if others:
        raise SnapshotError(f"{place} holds other things than a snapshot, {min(others)[:80]}")


def _empty(folder_fd: int) -> None:
    for name in (STATE, MEMORY):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder_fd)
