"""The log of written pages: which pages of guest RAM the guest, a device or a peer has written."""

from __future__ import annotations

from stratovirt.errors import StratovirtError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stratovirt._native.guest_memory import GuestMemory


PAGE = 4096


class DirtyLogError(StratovirtError):
    """Some writes of this machine cannot be logged."""


class WrittenPages:
    """The written pages of the RAM at [gpa, gpa+size): bit n of `bitmap` is its page n."""

    __slots__ = ("bitmap", "gpa", "size")

    def __init__(self, gpa: int, size: int, bitmap: bytes) -> None:
        self.gpa, self.size, self.bitmap = gpa, size, bitmap

    def __len__(self) -> int:
        return int.from_bytes(self.bitmap, "little").bit_count()

    def __iter__(self) -> Iterator[int]:
        """The address of each page, in order."""
        for at in range(0, len(self.bitmap), 8):
            word = int.from_bytes(self.bitmap[at : at + 8], "little")
            while word:
                yield self.gpa + (8 * at + (word & -word).bit_length() - 1) * PAGE
                word &= word - 1


class DirtyLog:
    """The log of one machine's guest memory; it may be started and stopped many times.

    A write that is complete when `collect` is called is in its answer or in an earlier one.  A
    page that is being written meanwhile may be in this answer and is in the next one.
    """

    def __init__(self, memory: GuestMemory) -> None:
        self._memory = memory
        self._waits: list[Callable[[], None]] = []
        """Wait for the writers that `start` has asked to log."""

    @property
    def is_running(self) -> bool:
        """Whether writes are logged."""
        return self._memory.is_logged

    def start(self) -> None:
        """Log all writes, but for those of peers, from now on; raises DirtyLogError.

        Returns at once; `wait` says that peers log too.
        """
        self._check()
        try:
            self._memory.start_log()
            asked = [writer.start_log() for writer in self._memory.writers]
        except OSError as error:
            self.stop()
            raise DirtyLogError(f"cannot log writes to memory: {error.strerror}") from error
        self._waits = [wait for wait in asked if wait is not None]

    def wait(self) -> None:
        """Wait until all writes are logged; raises DirtyLogError, and the log has to be stopped.

        A peer may take seconds: while the machine runs, do not call this under the lock.
        """
        try:
            for wait in self._waits:
                wait()
        except OSError as error:
            raise DirtyLogError(f"cannot log writes to memory: {error.strerror}") from error

    def collect(self) -> list[WrittenPages]:
        """The pages written since `start` or the last call, for each block of RAM.

        Raises DirtyLogError.
        """
        self._check()
        self._check_gaps()
        try:
            for writer in self._memory.writers:
                writer.collect_log()
        except OSError as error:
            raise DirtyLogError(f"cannot read the log of writes: {error.strerror}") from error
        return [WrittenPages(*block) for block in self._memory.take_log()]

    def stop(self) -> None:
        """Log no more and forget what was not collected; raises DirtyLogError."""
        failed: OSError | None = None
        for stop in (*(writer.stop_log for writer in self._memory.writers), self._memory.stop_log):
            try:
                stop()
            except OSError as error:
                failed = error
        if failed is not None:
            raise DirtyLogError(f"cannot stop logging writes: {failed.strerror}") from failed

    def _check(self) -> None:
        obstacles = [writer.log_obstacle for writer in self._memory.writers]
        reason = next((obstacle for obstacle in obstacles if obstacle is not None), None)
        if reason is not None:
            raise DirtyLogError(f"cannot log writes to memory: {reason}")

    def _check_gaps(self) -> None:
        """Raise DirtyLogError if a writer without a log has been here, also if it has gone."""
        for reason in self._memory.log_gaps:
            raise DirtyLogError(f"cannot log writes to memory: {reason}")
