"""Clean-up at exit: sockets, pidfiles, the terminal's raw mode.

Actions run in reverse order, once, at every exit that can run code.
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

    A file that another process has put there since is kept.
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
    """Hand over the registered files to a process that can still remove them (the broker)."""
    taken = list(_removals)
    _removals.clear()
    return taken


def forget() -> None:
    """Drop all registrations, which belong to the parent process after a fork."""
    _actions.clear()
    _removals.clear()


def run_all() -> None:
    """Run all registered actions and removals now instead of at exit."""
    while _actions:
        _actions.pop()()
    while _removals:
        path, identity = _removals.pop()
        try:
            if _identity(path) == identity:
                os.unlink(path)
        except FileNotFoundError:
            continue
