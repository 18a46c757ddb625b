"""Files that back guest RAM: a memfd, the user's file, or an unlinked one in a folder."""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from stratovirt.config.kinds import size_text
from stratovirt.errors import StratovirtError
from stratovirt.runtime.descriptors import open_at_once
from stratovirt.runtime.signals import held

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.config.vm_config import VmConfig

HUGE_PAGES = "/sys/kernel/mm/hugepages"


class RamError(StratovirtError):
    """Guest RAM cannot be set up on this host; the text names the option."""


def open_backing(
    config: VmConfig,
    source: str,
    path: str | None,
    size: int,
    *,
    memfd: bool,
    hugetlb: bool = False,
) -> int:
    """Open a file of `size` bytes for RAM, -1 for anonymous memory; raises OSError and RamError."""
    if path is None and not memfd:
        return -1
    if path is None:
        fd = os.memfd_create("stratovirt-ram", os.MFD_CLOEXEC | (os.MFD_HUGETLB if hugetlb else 0))
    elif os.path.isdir(path):
        fd = _nameless_file(path)
    else:
        fd = _named_file(config, source, path, size)
    try:
        _check_page(fd, source, size)
        os.ftruncate(fd, size)
    except BaseException:
        os.close(fd)
        raise
    return fd


def open_log(size: int) -> int:
    """Open a file for the log of written pages; peers cannot shorten or seal it. Raises OSError."""
    fd = os.memfd_create("stratovirt-log", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _named_file(config: VmConfig, source: str, path: str, size: int) -> int:
    """Open and lock the user's file, which must be new, empty or of this size already."""
    where = source if path in source else f"{source},mem-path={path}"
    fd = open_at_once(path, os.O_RDWR | os.O_CREAT)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise RamError(f"{where}: neither a regular file nor a folder")
        if status.st_size not in (0, size):
            raise RamError(
                f"{where}: the file has {status.st_size} bytes and is not overwritten; "
                f"it must be empty, absent or of {size} bytes"
            )
        _check_no_image(config, where, status)
        # A process that uses the file as an image or as memory holds its lock.
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise RamError(f"{where}: the file is in use as memory or as an image") from error
        raise
    except RamError:
        os.close(fd)
        raise
    return fd


def _check_no_image(config: VmConfig, where: str, memory: os.stat_result) -> None:
    images = [(f"-drive id={drive.id}", drive.file) for drive in config.drives.values()]
    images += [(f"-drive if=pflash,unit={flash.unit}", flash.file) for flash in config.flashes]
    for flag, file in images:
        try:
            status = os.stat(file)
        except OSError:
            # Opening the image reports this error later.
            continue
        if (status.st_dev, status.st_ino) == (memory.st_dev, memory.st_ino):
            raise RamError(f"{where}: {flag} has the same file; it cannot be memory and disk")


def _nameless_file(folder: str) -> int:
    # Not O_TMPFILE, which hugetlbfs has only had since Linux 5.14.
    import tempfile

    with held():
        fd, name = tempfile.mkstemp(prefix="stratovirt-ram-", dir=folder)
        os.unlink(name)
    return fd


def _check_page(fd: int, source: str, size: int) -> None:
    page = os.fstatvfs(fd).f_bsize
    if _free_huge_pages(page) is not None and size % page:
        raise RamError(
            f"{source}: {size_text(size)} is no multiple of the huge page, {size_text(page)}"
        )


def _free_huge_pages(page: int) -> int | None:
    """Number of free huge pages of this size; None if `page` is no huge page size."""
    try:
        with open(
            f"{HUGE_PAGES}/hugepages-{page >> 10}kB/free_hugepages", encoding="ascii"
        ) as file:
            return int(file.read())
    except OSError:
        return None


def huge_page_hint(fd: int, size: int) -> str:
    """Error hint with the needed and free huge pages; empty for ordinary pages."""
    page = os.fstatvfs(fd).f_bsize
    free = _free_huge_pages(page)
    if free is None:
        return ""
    return (
        f"; it takes {size // page} huge pages of {size_text(page)} and {free} are free "
        "(sysctl vm.nr_hugepages)"
    )
