"""What must not outlive the process: sockets, pidfiles, the terminal's raw mode.

Actions run in reverse order, once, on every way out that lets code run.
"""

from __future__ import annotations

import atexit
import os
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_actions: list[Callable[[], None]] = []


def at_exit(action: Callable[[], None]) -> None:
    """Run `action` when the process ends, newest first."""
    if not _actions:
        atexit.register(run_all)
    _actions.append(action)


def remove_at_exit(path: str) -> None:
    """Unlink `path` when the process ends."""
    absolute = os.path.abspath(path)

    def remove() -> None:
        with suppress(FileNotFoundError):
            os.unlink(absolute)

    at_exit(remove)


def run_all() -> None:
    """Run what is registered now instead of at exit."""
    while _actions:
        _actions.pop()()
