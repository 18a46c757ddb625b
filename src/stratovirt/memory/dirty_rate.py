"""The dirty rate: how much memory a machine writes in a second, measured by the log of writes."""

from __future__ import annotations

from stratovirt.errors import StratovirtError
from stratovirt.memory.dirty_log import PAGE, DirtyLog
from stratovirt.runtime.log import Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stratovirt._native.guest_memory import GuestMemory
    from stratovirt.runtime.clock import Clock

log = Log(__name__)

NS_PER_SECOND = 1_000_000_000
MIB = 1 << 20


class DirtyRate:
    """One measurement of the dirty rate of a machine, which has one at a time.

    Its parts are called in turn; `wait`, unlike the others, not under the machine's lock.
    `rate_mib` is in MiB a second, of pages that were written at least once in the whole time.
    """

    def __init__(self, memory: GuestMemory, clock: Clock) -> None:
        self._log, self._clock = DirtyLog(memory), clock
        self.status = "unstarted"
        self.start_s = self.duration_s = 0
        self.rate_mib: int | None = None

    def begin(self) -> None:
        """Start the log of writes; raises StratovirtError."""
        if self._log.is_running:
            raise StratovirtError("the writes of this machine are being logged already")
        self._log.start()

    def wait(self) -> None:
        """Wait until all writes are logged, for seconds perhaps; raises StratovirtError."""
        self._log.wait()

    def measure(self, waited: Callable[[], None], duration_s: int) -> None:
        """Measure from now on; `waited` raises what `wait` did, and the log is stopped."""
        try:
            waited()
        except Exception:
            self._log.stop()
            raise
        now_ns = self._clock.now_ns()
        self.status, self.rate_mib = "measuring", None
        self.start_s, self.duration_s = now_ns // NS_PER_SECOND, duration_s
        self._clock.call_at(now_ns + duration_s * NS_PER_SECOND, self._end)

    def _end(self) -> None:
        try:
            try:
                pages = sum(map(len, self._log.collect()))
            finally:
                self._log.stop()
        except StratovirtError as error:
            # A device may have come that cannot be logged.
            log.warn(f"the dirty rate is not known: {error}")
            self.status = "unstarted"
        else:
            self.status = "measured"
            self.rate_mib = pages * PAGE // MIB // self.duration_s
