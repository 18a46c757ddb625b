"""The image of a drive, as block engines use it."""

from __future__ import annotations

from stratovirt._native.disk import SECTOR, Disk
from stratovirt.block.image_files import ImageRequest
from stratovirt.config.drive import Drive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.host.access import HostAccess


class Image:
    """An open image; `disk` is what engines work on.

    `sectors` is the whole number of 512-byte sectors; `can_discard` says whether the host supports
    discard.  `source` is the option that errors name, and `uses_uring` says whether io_uring may
    serve it.  Raises ImageError.
    """

    def __init__(
        self, drive: Drive, host: HostAccess, source: str = "", *, uses_uring: bool = True
    ) -> None:
        self.drive = drive
        self.uses_uring = uses_uring
        self.readonly = drive.readonly
        source = f"{source or f'-drive id={drive.id}'},file={drive.file}"
        self._files = host.open(
            ImageRequest(
                path=drive.file, readonly=drive.readonly, direct=drive.direct, source=source
            )
        )
        self.sectors = self._files.size // SECTOR
        self.can_discard = self._files.can_discard
        self.block_size = self._files.block_size
        # Two descriptors: what O_DIRECT cannot take goes through the page cache.
        try:
            self.disk = Disk(
                self._files.fd,
                self._files.buffered_fd,
                direct_align=self._files.direct_align,
                capacity=self.sectors,
                readonly=self.readonly,
                block_size=self.block_size,
            )
        except Exception:
            self._files.close()
            raise

    def close(self) -> None:
        """Close the descriptors, which releases the lock."""
        self._files.close()
