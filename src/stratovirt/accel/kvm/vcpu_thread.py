"""vCPU threads: start, pause, resume, end, and the report of an exit that the machine decides."""

from __future__ import annotations

import _thread
import select

from stratovirt._native.kvm_vcpu import block_signals_in_this_thread
from stratovirt.accel.base import AccelError
from stratovirt.accel.vcpu import VcpuExit
from stratovirt.runtime.threads import start_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stratovirt.accel.vcpu import Vcpu

REPORTED_POLL_MS = 1
"""Interval at which a vCPU that cannot go on checks for a pause or stop request."""


class VcpuThread:
    """One vCPU and the thread it runs in.

    The thread waits in `_gate` while the vCPU is paused, and acknowledges by releasing
    `_parked`.  Both are plain locks: importing `threading` would cost start-up time.  `name` is
    the thread's name in ps and /proc; `report` is called in the thread.
    """

    def __init__(self, vcpu: Vcpu, name: str, report: Callable[[VcpuExit], None]) -> None:
        self.vcpu, self._name, self._report = vcpu, name, report
        self._gate = _thread.allocate_lock()
        self._gate.acquire()
        self._parked = _thread.allocate_lock()
        self._ended = _thread.allocate_lock()
        self._born = _thread.allocate_lock()
        self._pause_wanted = False
        self._stop_wanted = False
        self._is_parked = False
        self._started = False

    def resume(self) -> None:
        """Let the vCPU run; raises AccelError when the host has no thread for it."""
        self._pause_wanted = False
        if not self._started:
            locks = (self._ended, self._parked, self._born)
            for lock in locks:
                lock.acquire()
            try:
                start_thread(self._name, self._main)
            except RuntimeError as error:
                for lock in locks:
                    lock.release()
                raise AccelError(f"vCPU {self.vcpu.index}: {error}") from error
            self._started = True
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
        block_signals_in_this_thread()
        self.vcpu.thread_id = _thread.get_native_id()
        self._born.release()
        try:
            while not self._stop_wanted:
                ended = self.vcpu.run()
                if ended.kind != VcpuExit.KICKED and not self._stop_wanted:
                    self._report(ended)
                    # The machine decides what follows: it pauses or stops this vCPU.
                    while not (self._pause_wanted or self._stop_wanted):
                        select.poll().poll(REPORTED_POLL_MS)
                if self._pause_wanted and not self._stop_wanted:
                    self._park()
        finally:
            self._ended.release()
