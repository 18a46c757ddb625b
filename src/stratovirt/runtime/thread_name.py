"""Names of threads, as ps and /proc show them."""

from __future__ import annotations

LONGEST = 15
"""TASK_COMM_LEN less its final NUL."""


def name_thread(thread_id: int, name: str) -> None:
    """Give a thread of this process a name; what is too long is cut."""
    with open(f"/proc/self/task/{thread_id}/comm", "w", encoding="utf-8") as comm:
        comm.write(name[:LONGEST])
