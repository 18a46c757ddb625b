"""vCPU threads: start, pause, resume, end, and the report of an exit that ends the run."""

from __future__ import annotations

import _thread
import select

from stratovirt._native import kvm as native
from stratovirt._native.kvm import KvmVcpu
from stratovirt.runtime.log import Log
from stratovirt.runtime.threads import start_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

log = Log(__name__)

REPORTED_POLL_MS = 1
"""Interval at which a vCPU that cannot go on checks for a pause or stop request."""


class ExitReport:
    """The reason for a vCPU's own stop: `reset` for a triple fault, else an error."""

    __slots__ = ("reset", "text")

    def __init__(self, text: str, *, reset: bool) -> None:
        self.text = text
        self.reset = reset


class VcpuThread:
    """One vCPU and the thread it runs in.

    The thread waits in `_gate` while the vCPU is paused, and acknowledges by releasing
    `_parked`.  Both are plain locks: importing `threading` would cost start-up time.  `name` is
    the thread's name in ps and /proc; `registers` describes the vCPU's registers in one line.
    """

    def __init__(
        self,
        vcpu: KvmVcpu,
        name: str,
        registers: Callable[[], str],
        report: Callable[[ExitReport], None],
    ) -> None:
        self.vcpu, self._name, self._registers = vcpu, name, registers
        self._report = report
        self._gate = _thread.allocate_lock()
        self._gate.acquire()
        self._parked = _thread.allocate_lock()
        self._ended = _thread.allocate_lock()
        self._born = _thread.allocate_lock()
        self._pause_wanted = False
        self._stop_wanted = False
        self._is_parked = False
        self._started = False
        self.thread_id = 0

    def resume(self) -> None:
        """Let the vCPU run."""
        self._pause_wanted = False
        if not self._started:
            self._started = True
            self._ended.acquire()
            self._parked.acquire()
            self._born.acquire()
            start_thread(self._name, self._main)
            # Wait until thread_id is set: query-cpus-fast and pinning tools read it at once.
            self._born.acquire()
        elif self._is_parked:
            self._is_parked = False
            self._gate.release()

    def request_pause(self) -> None:
        """Ask the vCPU to stop between two instructions."""
        if self._started and not self._is_parked:
            self._pause_wanted = True
            self.vcpu.kick()

    def wait_paused(self) -> None:
        """Wait until a requested pause is reached."""
        if self._pause_wanted:
            self._parked.acquire()
            self._is_parked = True

    def request_stop(self) -> None:
        """Ask the thread to end."""
        self._stop_wanted = True
        if self._is_parked:
            self._is_parked = False
            self._gate.release()
        elif self._started:
            self.vcpu.kick()

    def join(self) -> None:
        """Wait until the thread has ended."""
        if self._started:
            self._ended.acquire()
            self._ended.release()

    def _park(self) -> None:
        self.vcpu.note_paused()
        self._parked.release()
        self._gate.acquire()

    def _main(self) -> None:
        native.block_signals_in_this_thread()
        self.thread_id = _thread.get_native_id()
        self._born.release()
        try:
            while not self._stop_wanted:
                report = self._run()
                if report is not None:
                    self._report(report)
                    # The machine decides what follows: it pauses or stops this vCPU.
                    while not (self._pause_wanted or self._stop_wanted):
                        select.poll().poll(REPORTED_POLL_MS)
                if self._pause_wanted and not self._stop_wanted:
                    self._park()
        finally:
            self._ended.release()

    def _run(self) -> ExitReport | None:
        """Run until kicked (None) or until an exit must be reported."""
        try:
            reason = self.vcpu.run()
            if reason == native.KICKED or self._stop_wanted:
                return None
            return self._explain(reason)
        except Exception as error:
            place = error.__traceback__
            while place is not None and place.tb_next is not None:
                place = place.tb_next
            where = f"{place.tb_frame.f_code.co_qualname}:{place.tb_lineno}" if place else "?"
            text = f"device error {type(error).__name__}: {error} in {where}"
            return ExitReport(text, reset=False)

    def _explain(self, reason: int) -> ExitReport:
        if reason == native.RUN_FAILED:
            return ExitReport(f"vCPU {self.vcpu.index}: KVM_RUN failed", reset=False)
        text = f"vCPU {self.vcpu.index}: {self.vcpu.describe_exit()}"
        text = f"{text}; {self._registers()}"
        return ExitReport(text, reset=reason == native.SHUTDOWN)
