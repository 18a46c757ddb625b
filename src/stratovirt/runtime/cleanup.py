"""What must not outlive the process: sockets, pidfiles, the terminal's raw mode.

It is undone in reverse order, once, on every way out that lets code run.
"""

from __future__ import annotations

import atexit
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Identity = tuple[int, int]
    """Device and inode of a file."""

_actions: list[Callable[[], None]] = []
_removals: list[tuple[str, Identity]] = []


def at_exit(action: Callable[[], None]) -> None:
    """Run `action` when the process ends, newest first."""
    _register()
    _actions.append(action)


def remove_at_exit(path: str, identity: Identity | None = None) -> None:
    """Unlink the file that is at `path` now, or the one of `identity`, when the process ends.

    A file that somebody else has put there since stays.
    """
    _register()
    path = os.path.abspath(path)
    _removals.append((path, identity or _identity(path)))


def _register() -> None:
    if not _actions and not _removals:
        atexit.register(run_all)


def _identity(path: str) -> Identity:
    status = os.lstat(path)
    return status.st_dev, status.st_ino


def take_removals() -> list[tuple[str, Identity]]:
    """The files that somebody else will remove, as this process cannot any more."""
    taken = list(_removals)
    _removals.clear()
    return taken


def forget() -> None:
    """What is registered is another process's business."""
    _actions.clear()
    _removals.clear()


def run_all() -> None:
    """Do what is registered now instead of at exit."""
    while _actions:
        _actions.pop()()
    while _removals:
        path, identity = _removals.pop()
        try:
            if _identity(path) == identity:
                os.unlink(path)
        except FileNotFoundError:
            continue
