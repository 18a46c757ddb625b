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


class CleanUp:
    """The clean-up of one process."""

    def __init__(self) -> None:
        self._actions: list[Callable[[], None]] = []
        self._removals: list[tuple[str, Identity]] = []
        self._is_registered = False

    def at_exit(self, action: Callable[[], None]) -> None:
        """Run `action` when the process ends, newest first."""
        self._register()
        self._actions.append(action)

    def remove_at_exit(self, path: str, identity: Identity | None = None) -> None:
        """Unlink the file that is at `path` now, or the one of `identity`, at the process's end.

        A file that another process has put there since is kept.
        """
        self._register()
        path = os.path.abspath(path)
        self._removals.append((path, identity or _identity(path)))

    def _register(self) -> None:
        if not self._is_registered:
            self._is_registered = True
            atexit.register(self.run_all)

    def take_removals(self) -> list[tuple[str, Identity]]:
        """Hand over the registered files to a process that can still remove them (the broker)."""
        taken, self._removals = self._removals, []
        return taken

    def run_all(self) -> None:
        """Run all registered actions and removals now instead of at exit."""
        while self._actions:
            self._actions.pop()()
        while self._removals:
            path, identity = self._removals.pop()
            try:
                if _identity(path) == identity:
                    os.unlink(path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                from stratovirt.runtime.log import Log

                Log(__name__).error(f"{path}: cannot be removed: {error.strerror}")
        if self._is_registered:
            self._is_registered = False
            atexit.unregister(self.run_all)


def _identity(path: str) -> Identity:
    status = os.lstat(path)
    return status.st_dev, status.st_ino
