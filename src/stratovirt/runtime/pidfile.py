"""The pidfile: written atomically, locked while the process runs, removed on exit."""

from __future__ import annotations

import fcntl
import os
import stat

from stratovirt.errors import StratovirtError
from stratovirt.runtime.descriptors import open_at_once
from stratovirt.runtime.signals import held

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.runtime.cleanup import CleanUp


def write_pidfile(path: str, cleanup: CleanUp) -> None:
    """Write this process's id to `path`; raises StratovirtError when another instance holds it.

    The lock, not the content, shows that the writer runs; the kernel ends it with the process.
    """
    try:
        # The folder's lock makes check and write atomic against another instance.
        folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            if _is_something_else(path):
                raise StratovirtError(f"-pidfile {path}: is there and no regular file")
            if _is_held(path):
                raise StratovirtError(f"-pidfile {path}: another instance holds it")
            with held():
                cleanup.remove_at_exit(path, _put(path))
        finally:
            os.close(folder)
    except OSError as error:
        raise StratovirtError(f"-pidfile {path}: cannot write: {error.strerror}") from error


def _is_something_else(path: str) -> bool:
    """Whether `path` is a device, folder, link etc., which a pidfile must not replace."""
    try:
        return not stat.S_ISREG(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def _is_held(path: str) -> bool:
    try:
        fd = open_at_once(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _put(path: str) -> tuple[int, int]:
    """Write beside `path` and rename over it; (device, inode) of the file, which stays locked.

    The locked descriptor is read-only: a compromised process cannot write another process id.
    """
    draft = f"{path}.{os.getpid()}"
    writing = open_at_once(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        os.write(writing, f"{os.getpid()}\n".encode())
        fd = os.open(draft, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.rename(draft, path)
    except OSError:
        os.unlink(draft)
        raise
    finally:
        os.close(writing)
    status = os.fstat(fd)
    return status.st_dev, status.st_ino
