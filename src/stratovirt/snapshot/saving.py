"""The snapshots that a running machine writes, and an end of the machine that waits for one."""

from __future__ import annotations

from stratovirt.runtime.log import Log
from stratovirt.snapshot.errors import SnapshotError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stratovirt._native.ram_mapping import RamMapping
    from stratovirt.host.access import HostAccess
    from stratovirt.runtime.loop import Loop
    from stratovirt.snapshot.save import Snapshot
    from stratovirt.snapshot.tree import Tree

log = Log(__name__)


class Saving:
    """The snapshots of one machine, of which one at a time is written; `last` was begun last."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.last: Snapshot | None = None
        self._end: Callable[[], None] | None = None
        """Ends the machine after the snapshot."""
        self._is_impatient = False
        """Whether a signal came for an end that waits; another cancels the snapshot."""

    @property
    def is_active(self) -> bool:
        """Whether a snapshot is being written, so that the machine must not change."""
        return self.last is not None and self.last.is_active

    @property
    def holds_up_end(self) -> bool:
        """Whether an end of the machine waits for a snapshot."""
        return self._end is not None

    def begin(
        self,
        folder: str,
        state: Tree,
        ram: RamMapping,
        host: HostAccess,
        saved: Callable[[Snapshot], None],
    ) -> None:
        """Begin a snapshot, with `saved` called in the loop after it; raises SnapshotError."""
        from stratovirt.snapshot.save import Snapshot

        def ended() -> None:
            saved(snapshot)
            if self._end is not None:
                self._end()

        try:
            snapshot = Snapshot(folder, state, ram, host, lambda: self._loop.call_soon(ended))
        except OSError as error:
            raise SnapshotError(f"{folder}: {error.strerror}") from error
        self.last = snapshot

    def delays(self, end: Callable[[], None], why: str) -> bool:
        """Whether a snapshot is being written, after which `end` of the first call is called."""
        if not self.is_active:
            return False
        if self._end is None:
            log.info(f"the machine ends ({why}) when its snapshot is written")
            self._end = end
        return True

    def hurry(self) -> None:
        """Note that a signal came; the second one for an end that waits cancels the snapshot."""
        if self._end is None:
            return
        if self._is_impatient:
            log.error("a second signal: the snapshot that is being written is given up")
            self.cancel()
        self._is_impatient = True

    def cancel(self) -> None:
        """Stop writing soon; a complete snapshot stays."""
        if self.last is not None:
            self.last.cancel()

    def close(self) -> None:
        """Cancel, and wait until nothing is written any more."""
        if self.last is not None:
            self.last.cancel()
            self.last.wait()
