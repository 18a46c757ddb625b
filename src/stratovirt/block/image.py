"""A raw image file or block device: opened, locked, measured."""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from stratovirt._native.disk import Disk, can_punch_holes, direct_alignment
from stratovirt.config.drive import Drive
from stratovirt.errors import StratovirtError

SECTOR = 512


class ImageError(StratovirtError):
    """An image cannot be used; the text names what asked for it."""


class Image:
    """An open image; `disk` is what engines work on.

    `sectors` is the whole number of 512-byte sectors; `can_discard` says whether the host takes
    ranges back.  `source` names in errors what asked for the image, and `uses_uring` says whether
    io_uring may serve it.
    """

    def __init__(self, drive: Drive, source: str = "", *, uses_uring: bool = True) -> None:
        self.drive = drive
        self.uses_uring = uses_uring
        self._source = f"{source or f'-drive id={drive.id}'},file={drive.file}"
        self.readonly = drive.readonly
        access = os.O_RDONLY if drive.readonly else os.O_RDWR
        self._buffered_fd = self._open(drive.file, access)
        try:
            self._lock()
            self.sectors = self._size() // SECTOR
            if self.sectors == 0:
                raise ImageError(f"{self._source}: the image holds not even one 512-byte sector")
            self._fd = self._buffered_fd
            direct_align = 0
            if drive.direct:
                self._fd = self._open_direct(drive.file, access)
                direct_align = direct_alignment(self._fd)
            self.can_discard = not self.readonly and self._can_discard()
            # Two descriptors: what O_DIRECT cannot take goes through the page cache.
            self.disk = Disk(
                self._fd,
                self._buffered_fd,
                direct_align=direct_align,
                capacity=self.sectors,
                readonly=self.readonly,
            )
        except StratovirtError:
            os.close(self._buffered_fd)
            raise

    def close(self) -> None:
        """Give back the descriptors, and with them the lock."""
        if self._fd != self._buffered_fd:
            os.close(self._fd)
        os.close(self._buffered_fd)

    def _open(self, path: str, flags: int) -> int:
        try:
            return os.open(path, flags | os.O_CLOEXEC)
        except OSError as error:
            hint = "; use readonly=on" if error.errno == errno.EROFS and flags & os.O_RDWR else ""
            raise ImageError(f"{self._source}: cannot open: {error.strerror}{hint}") from error

    def _open_direct(self, path: str, access: int) -> int:
        try:
            return os.open(path, access | os.O_DIRECT | os.O_CLOEXEC)
        except OSError as error:
            raise ImageError(
                f"{self._source}: cannot open with direct=on: {error.strerror}; "
                "this file system may not support O_DIRECT, use direct=off"
            ) from error

    def _lock(self) -> None:
        kind = fcntl.LOCK_SH if self.readonly else fcntl.LOCK_EX
        try:
            # flock belongs to the open file, so it holds until the last descriptor goes.
            fcntl.flock(self._buffered_fd, kind | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise ImageError(
                    f"{self._source}: the image is in use by another process"
                ) from error
            raise ImageError(f"{self._source}: cannot lock: {error.strerror}") from error

    def _can_discard(self) -> bool:
        status = os.fstat(self._buffered_fd)
        # A block device takes it or refuses it when asked; the guest lives with either.
        return stat.S_ISBLK(status.st_mode) or can_punch_holes(self._buffered_fd, status.st_size)

    def _size(self) -> int:
        status = os.fstat(self._buffered_fd)
        if stat.S_ISBLK(status.st_mode):
            return os.lseek(self._buffered_fd, 0, os.SEEK_END)
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"{self._source}: neither a regular file nor a block device")
        return status.st_size
