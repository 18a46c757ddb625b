"""Opens, locks and measures a raw image, in the machine's process or in its broker."""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from stratovirt._native.disk import SECTOR, can_punch_holes, device_block_size, direct_alignment
from stratovirt.errors import StratovirtError
from stratovirt.host.request import Opened, Request, detail
from stratovirt.runtime.descriptors import open_at_once


class ImageError(StratovirtError):
    """An image cannot be used; the text names the option or command."""


class ImageFiles:
    """An opened image: its descriptors and the properties that `ImageRequest` has found."""

    __slots__ = ("block_size", "buffered_fd", "can_discard", "direct_align", "fd", "size")

    def __init__(
        self,
        fds: list[int],
        *,
        size: int,
        direct_align: int,
        can_discard: bool,
        block_size: int,
    ) -> None:
        self.buffered_fd, self.fd = fds[0], fds[-1]
        self.size, self.direct_align, self.can_discard = size, direct_align, can_discard
        self.block_size = block_size

    @property
    def fds(self) -> list[int]:
        """One descriptor, or two with O_DIRECT."""
        return sorted({self.buffered_fd, self.fd}, key=(self.buffered_fd, self.fd).index)

    def close(self) -> None:
        """Close the descriptors, which releases the lock."""
        for fd in self.fds:
            os.close(fd)


class ImageRequest(Request["ImageFiles"], kind="image"):
    """Open, lock and measure an image; `source` is the option or command that errors name."""

    path: str
    readonly: bool
    direct: bool
    source: str = detail(default="")

    def open(self, machine: str = "self", /) -> Opened:
        """Open the image, a second time if `direct`; raises ImageError."""
        access = os.O_RDONLY if self.readonly else os.O_RDWR
        fds = [_open(self.path, access, self.source)]
        try:
            lock_file(fds[0], self.readonly, self.source, machine)
            found = {"size": _size(fds[0], self.source), "direct_align": 0}
            if self.direct:
                fds.append(_open_direct(self.path, access, self.source))
                found["direct_align"] = direct_alignment(fds[1])
            found["can_discard"] = not self.readonly and _can_discard(fds[0])
            found["block_size"] = _block_size(fds[0])
        except Exception as error:
            for fd in fds:
                os.close(fd)
            if isinstance(error, OSError):
                raise ImageError(f"{self.source}: {error.strerror}") from error
            raise
        return Opened(fds, found)

    def receive(self, opened: Opened) -> ImageFiles:
        """The descriptors and what was found."""
        return ImageFiles(opened.fds, **opened.fields)


def _open(path: str, flags: int, source: str) -> int:
    try:
        # A FIFO has no size and is refused for it.
        return open_at_once(path, flags)
    except OSError as error:
        hint = "; use readonly=on" if error.errno == errno.EROFS and flags & os.O_RDWR else ""
        raise ImageError(f"{source}: cannot open: {error.strerror}{hint}") from error


def _open_direct(path: str, access: int, source: str) -> int:
    try:
        return open_at_once(path, access | os.O_DIRECT)
    except OSError as error:
        raise ImageError(
            f"{source}: cannot open with direct=on: {error.strerror}; "
            "this file system may not support O_DIRECT, use direct=off"
        ) from error


def lock_file(fd: int, readonly: bool, source: str, machine: str = "self") -> None:
    """Lock a file, shared for `readonly` or else exclusive; raises ImageError."""
    kind = fcntl.LOCK_SH if readonly else fcntl.LOCK_EX
    try:
        # flock belongs to the open file, so it holds until the last descriptor goes.
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            user = "this machine already" if _has_open(machine, fd) else "another process"
            raise ImageError(f"{source}: the image is in use by {user}") from error
        raise ImageError(f"{source}: cannot lock: {error.strerror}") from error


def _has_open(machine: str, fd: int) -> bool:
    """Whether the process `machine` has the file of `fd` open by another descriptor."""
    wanted, own = os.fstat(fd), str(fd) if machine == "self" else ""
    try:
        names = os.listdir(f"/proc/{machine}/fd")
    except OSError:
        return False  # a jail without /proc: whose it is, is not to be seen
    for name in names:
        try:
            found = os.stat(f"/proc/{machine}/fd/{name}")
        except OSError:
            continue  # closed by now, as the listing's own descriptor is
        if name != own and os.path.samestat(found, wanted):
            return True
    return False


def _can_discard(fd: int) -> bool:
    status = os.fstat(fd)
    # A block device takes it or refuses it when asked; the guest lives with either.
    return stat.S_ISBLK(status.st_mode) or can_punch_holes(fd, status.st_size)


def _block_size(fd: int) -> int:
    """The host's block size in bytes: a device's own; 512 for a file, which takes any range."""
    if not stat.S_ISBLK(os.fstat(fd).st_mode):
        return SECTOR
    return device_block_size(fd)


def _size(fd: int, source: str) -> int:
    status = os.fstat(fd)
    if stat.S_ISBLK(status.st_mode):
        size = os.lseek(fd, 0, os.SEEK_END)
    elif stat.S_ISREG(status.st_mode):
        size = status.st_size
    else:
        raise ImageError(f"{source}: neither a regular file nor a block device")
    if size < SECTOR:
        raise ImageError(f"{source}: the image holds not even one 512-byte sector")
    return size
