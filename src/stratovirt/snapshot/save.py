"""Takes a snapshot: the state at once, the memory by a separate thread."""

from __future__ import annotations

import _thread
import os

from stratovirt._native.memory_file import CancelledError, MemoryFile
from stratovirt.runtime.faults import reason
from stratovirt.runtime.log import Log
from stratovirt.runtime.threads import start_thread
from stratovirt.snapshot.encoding import encode
from stratovirt.snapshot.files import SnapshotRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stratovirt._native.ram_mapping import RamMapping
    from stratovirt.host.access import HostAccess
    from stratovirt.snapshot.tree import Tree

log = Log(__name__)


class Snapshot:
    """One snapshot (QMP's migrate) and its outcome; `status` is QMP's MigrationStatus.

    Raises SnapshotError or OSError when the folder cannot be written.  `ended` is called in the
    snapshot's thread when the folder is in its place, or is removed after an error.
    """

    def __init__(
        self,
        place: str,
        state: Tree,
        ram: RamMapping,
        host: HostAccess,
        ended: Callable[[], None],
    ) -> None:
        self.status = "setup"
        self.error = ""
        self.total = ram.size
        self._place = place
        self._files = host.open(SnapshotRequest(place=place, memory_bytes=ram.size))
        self._memory = MemoryFile(ram, self._files.memory_fd)
        self._content = encode(state)
        self._ended = ended
        self._done = _thread.allocate_lock()
        self._done.acquire()
        self.status = "active"
        start_thread("snapshot", self._run)

    @property
    def is_active(self) -> bool:
        """Whether memory is being written, so that RAM must not change."""
        return self.status == "active"

    @property
    def transferred(self) -> int:
        """Bytes of RAM written to the file."""
        return self._memory.written

    @property
    def remaining(self) -> int:
        """Bytes of RAM not yet scanned."""
        return self.total - self._memory.done

    def cancel(self) -> None:
        """Stop soon and remove the unfinished folder; a completed snapshot stays."""
        self._memory.cancel()

    def wait(self) -> None:
        """Wait for the end of the thread."""
        self._done.acquire()
        self._done.release()

    def _run(self) -> None:
        outcome = "failed"
        try:
            self._memory.save()
            self._write_state()
            self._files.commit()
            outcome = "completed"
            log.info(f"snapshot {self._place}: {self.transferred >> 20} MiB of memory written")
        except CancelledError:
            outcome = "canceled"
            log.info(f"snapshot {self._place}: cancelled")
        except Exception as error:
            self.error = f"{self._place}: {reason(error)}"
            log.error(f"snapshot {self.error}")
        if outcome != "completed":
            self._discard()
        self.status = outcome
        self._ended()
        self._done.release()

    def _write_state(self) -> None:
        view = memoryview(self._content)
        while view:
            view = view[os.write(self._files.state_fd, view) :]
        os.fdatasync(self._files.state_fd)
        os.fdatasync(self._files.memory_fd)

    def _discard(self) -> None:
        try:
            self._files.discard()
        except Exception as error:
            why = reason(error)
            log.warn(f"snapshot {self._place}: cannot clear away what was written: {why}")
