"""The pidfile: written atomically, locked by the living, removed on exit."""

from __future__ import annotations

import fcntl
import os

from stratovirt.errors import StratovirtError
from stratovirt.runtime.cleanup import remove_at_exit


def write_pidfile(path: str) -> None:
    """Write this process's id to `path`; raises StratovirtError when another instance holds it."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            # The lock, not the content, says whether the writer lives; the kernel ends it.
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            os.close(fd)
            raise StratovirtError(f"-pidfile {path}: another instance holds it") from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        raise StratovirtError(f"-pidfile {path}: cannot write: {error.strerror}") from error
    remove_at_exit(path)
