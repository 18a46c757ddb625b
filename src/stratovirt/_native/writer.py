"""The contract between guest memory's log of written pages and those who write by themselves."""

from __future__ import annotations

from typing import Protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Writer(Protocol):
    """Writes guest memory by itself: the guest under KVM, the kernel's vhost, a peer.

    This process's own code is none of them: it calls `wrote` of _native/guest_memory.pxd
    after each write.
    """

    @property
    def log_obstacle(self) -> str | None:
        """Why its writes cannot be logged; None when they can."""

    def start_log(self) -> Callable[[], None] | None:
        """Log each write from now on, in guest memory's log or elsewhere; raises OSError.

        Returns at once.  A writer that has to be asked logs only when the returned function has
        returned; it waits, and raises OSError if the writer does not log.
        """

    def collect_log(self) -> None:
        """Move pages that are logged elsewhere to guest memory's log; raises OSError."""

    def stop_log(self) -> None:
        """Log no more; raises OSError."""
