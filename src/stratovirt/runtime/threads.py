"""Starts threads with a name that ps and /proc show."""

from __future__ import annotations

import _thread

from stratovirt._native.thread_name import name_this_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def start_thread(name: str, run: Callable[..., None], *arguments: Any) -> None:
    """Call `run` in a thread of its own; the kernel keeps 15 bytes of its name.

    Raises RuntimeError when the host has no thread left.
    """

    def named() -> None:
        name_this_thread(name)
        run(*arguments)

    _thread.start_new_thread(named, ())
