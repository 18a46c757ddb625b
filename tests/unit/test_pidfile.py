"""The pidfile, as the process that wrote it keeps it."""

import fcntl
import os
from pathlib import Path

import pytest

from stratovirt.runtime.cleanup import CleanUp
from stratovirt.runtime.pidfile import write_pidfile


def test_what_holds_the_pidfile_cannot_write_another_process_into_it(
    tmp_path: Path,
) -> None:
    """Whoever took the process over could otherwise have root kill what it likes."""
    path = tmp_path / "pid"
    write_pidfile(str(path), CleanUp())
    held = [
        int(fd)
        for fd in os.listdir("/proc/self/fd")
        if os.path.realpath(f"/proc/self/fd/{fd}") == str(path)
    ]
    (fd,) = held
    assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
    with path.open() as another, pytest.raises(BlockingIOError):
        fcntl.flock(another, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert path.read_text() == f"{os.getpid()}\n"
    os.close(fd)


def test_a_folder_that_is_no_more_stops_no_clean_up(tmp_path: Path) -> None:
    folder, other = tmp_path / "folder", tmp_path / "other"
    folder.mkdir()
    clean_up = CleanUp()
    for path in (other, folder / "socket"):
        path.touch()
        clean_up.remove_at_exit(str(path))
    (folder / "socket").unlink()
    folder.rmdir()
    folder.touch()
    clean_up.run_all()
    assert not other.exists() and folder.exists()
