"""The machine's life cycle: build, start, pause, reset, save, end; and its QMP events."""

from __future__ import annotations

import _thread
import os
from contextlib import ExitStack

from stratovirt import __version__
from stratovirt._native.trace_events import QMP_EVENT, VM_STATUS
from stratovirt.accel.vcpu import VcpuExit
from stratovirt.architectures import NO_BOARD
from stratovirt.config.vm_config import VmConfig
from stratovirt.errors import StratovirtError
from stratovirt.host.access import HostAccess
from stratovirt.machine.machine import Machine
from stratovirt.runtime.log import Log
from stratovirt.runtime.loop import Loop
from stratovirt.runtime.signals import ENDING
from stratovirt.snapshot.errors import SnapshotError
from stratovirt.snapshot.saving import Saving

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Protocol

    from stratovirt.chardev.backend import Chardev
    from stratovirt.config.chardev import Chardev as ChardevOptions
    from stratovirt.host.line import BrokerLine
    from stratovirt.runtime.process import Process
    from stratovirt.snapshot.restore import Template
    from stratovirt.snapshot.save import Snapshot

    class Monitor(Protocol):
        """A QMP server for the clients of a chardev: see monitor.session.Session."""

        def send_event(self, name: str, content: dict[str, object] | None = None) -> None:
            """Send an event to the client; without a client it is dropped."""

        def close(self) -> None:
            """Send the remaining output, as far as the client reads."""

    MakeMonitor = Callable[["Vm", Chardev, bool], Monitor]
    """Called with the chardev to serve and whether replies are indented."""

log = Log(__name__)

RESUMABLE = ("prelaunch", "paused", "postmigrate")
"""States of a stopped machine that can be resumed."""


class Vm:
    """One machine in this process.

    Python device code and all of this class run under `lock`, in any thread; the loop takes it
    for every callback and the dispatcher for every access.  `status` is one of the
    states of QMP's query-status.
    """

    def __init__(self, process: Process, config: VmConfig, make_monitor: MakeMonitor) -> None:
        self.process, self.config = process, config
        self._make_monitor = make_monitor
        self.lock = _thread.RLock()
        self.loop = Loop(self.lock)
        self.status = "prelaunch"
        self.exit_status = 0
        self.closing = ExitStack()
        """Closes the parts in the reverse order of their making, of all or of a failed start."""
        self.closing.callback(self.loop.close)
        self.machine = Machine(config)
        self._has_started = False
        """Whether the lockdown is done, before which no guest runs."""
        self._runs_at_start = not config.start_paused
        self._ending = False
        self._is_resetting = False
        self._monitors: list[Monitor] = []
        self._template: Template | None = None
        self.access = HostAccess()
        self._broker: BrokerLine | None = None
        self.saving = Saving(self.loop)

    def build(self) -> None:
        """Create broker, monitors and the parts of the machine; raises StratovirtError."""
        config = self.config
        log.info(
            f"StratoVirt {__version__}: {config.machine.type}, {config.smp.cpus} vCPUs, "
            f"{config.memory.size >> 20} MiB, accelerator {config.accel}, process {os.getpid()}"
        )
        if self._is_locked_down and config.needs_broker:
            from stratovirt.host.broker import start_broker

            self._broker = start_broker(config)
            self.closing.callback(self._broker.close)
        for options, chardev in zip(config.monitors, self._open_monitors(), strict=True):
            monitor = self._make_monitor(self, chardev, options.pretty)
            self.closing.callback(monitor.close)
            self._monitors.append(monitor)
        if config.machine.type != NO_BOARD:
            if config.incoming is not None:
                from stratovirt.snapshot.restore import Template

                self._template = Template(config)
                self.closing.callback(self._template.close)
            self.machine.build(self, self._template)

    @property
    def _is_locked_down(self) -> bool:
        """Whether this process is locked down before the guest runs."""
        return self.config.seccomp and self.config.machine.type != NO_BOARD

    def _open_monitors(self) -> Sequence[Chardev]:
        if self._broker is not None:
            relayed = self._broker.open_monitors(self.loop, self.config.monitors)
            for chardev in relayed:
                self._add(chardev)
            return relayed
        return [
            self.add_chardev(monitor.chardev, monitor.source)
            for monitor in self.config.monitors
            if monitor.chardev is not None
        ]

    def add_chardev(self, options: ChardevOptions, source: str = "") -> Chardev:
        """Create a chardev, for `open` to open and `close` to close; raises StratovirtError."""
        from stratovirt.chardev.open import make_chardev

        chardev = make_chardev(
            self.process, self.loop, options, self.access, self._user_quit, source
        )
        self._add(chardev)
        return chardev

    @property
    def _chardevs(self) -> list[Chardev]:
        return self.machine.inventory.chardevs.opened

    def _add(self, chardev: Chardev) -> None:
        self.closing.callback(chardev.close)
        self._chardevs.append(chardev)

    def guest_powers_off(self) -> None:
        """The guest powered itself off; called from any thread."""
        self.request_shutdown(guest=True, reason="guest-shutdown")

    def guest_resets(self) -> None:
        """The guest requested a reset; called from any thread."""
        assert self.machine.board is not None
        if not self.machine.board.restarts_on_reset:
            self.request_shutdown(guest=True, reason="guest-reset")
        elif not self._is_resetting:
            # Further requests until the reset is done are the same reset.
            self._is_resetting = True
            self.loop.call_soon(self._restart_guest)

    def _restart_guest(self) -> None:
        try:
            if self.status == "running":
                self._reset(guest=True, reason="guest-reset")
        except StratovirtError as error:
            log.error(str(error))
            self._fail()
        finally:
            self._is_resetting = False

    def open(self) -> None:
        """Open the chardevs, allocate memory, and wait for clients that must connect first.

        Connected clients are served meanwhile.  Signals end the loop from now on; before, they
        interrupt the start.  Raises StratovirtError.
        """
        for number in ENDING:
            self.loop.on_signal(number, self._signalled)
        if self.process.signals.was_lost:
            self._signalled()
        with self.lock:
            for chardev in self._chardevs:
                chardev.open()
        for monitor in self.config.monitors:
            log.info(f"a monitor is there: {monitor.source}")
        if self._broker is not None:
            self._broker.serve(self._user_quit)
        if self.machine.board is not None and self.machine.board.allocations:
            from stratovirt.memory.prealloc import allocate

            allocate(self.machine.board.allocations, self.loop)
        for chardev in self._chardevs:
            if chardev.waits:
                log.info(f"waiting for a client of chardev {chardev.label}")
                self.loop.run(until=lambda chardev=chardev: chardev.is_connected)  # type: ignore[misc]

    def start(self) -> None:
        """Lock the process down and run the vCPUs."""
        if self.loop.is_stopped:
            return
        with self.lock:
            if self._is_locked_down:
                self._lock_down()
            self.machine.start()
            self._has_started = True
            if self._runs_at_start:
                self.resume()

    def _lock_down(self) -> None:
        from stratovirt.lockdown import lock_down

        if self._broker is not None:
            removals = self.process.cleanup.take_removals()
            self._broker.ask(
                "seal",
                removals=[(path, *identity) for path, identity in removals],
                detached=self.config.daemonize,
            )
            self.access.use(self._broker)
        assert self.machine.board is not None
        lock_down(self.process, self.config, self.machine.board, self._broker)
        log.info("locked down: only the system calls of a running machine are allowed")

    def run(self) -> int:
        """Run the loop until the machine ends; returns the exit status of the process."""
        self.loop.run()
        return self.exit_status

    def close(self) -> None:
        """End the snapshot that is being written, then the parts, the last made first."""
        self.saving.close()
        with self.lock:
            self.closing.close()
        log.info("the machine is gone")

    def pause(self) -> None:
        """Stop the vCPUs and drain the devices; afterwards no guest state changes."""
        if not self._has_started:
            self._runs_at_start = False
        if self.status != "running":
            return
        self._halt("paused")
        self.send_event("STOP")

    def _set_status(self, status: str) -> None:
        self.status = status
        VM_STATUS(status)
        log.info(f"the machine is in state {status}")

    def _halt(self, status: str) -> None:
        self.machine.pause()
        self._set_status(status)

    def _go(self) -> None:
        before = self.status
        self._set_status("running")
        try:
            self.machine.resume()
        except StratovirtError:
            # Some vCPUs may run already, and a machine runs with all of them or with none.
            self.machine.pause()
            self._set_status(before)
            raise

    def resume(self) -> None:
        """Run, the first time or after a pause; no effect on an ended or failed machine."""
        if not self._has_started:
            self._runs_at_start = True
        if not self._has_started or self.status not in RESUMABLE:
            return
        self._refuse_while_saving("cont")
        first = self.status == "prelaunch"
        self._go()
        if not first or self.config.start_paused:
            self.send_event("RESUME")

    def reset(self) -> None:
        """Reset the machine to power-on state and boot again; raises StratovirtError."""
        if self.machine.board is None:
            raise StratovirtError("there is no machine that could be reset")
        has_vcpus = self.machine.runs_vcpus
        if has_vcpus and self.status not in ("running", *RESUMABLE):
            raise StratovirtError(f"the machine is in state {self.status} and cannot be reset")
        self._refuse_while_saving("system_reset")
        has_code = self.config.kernel is not None or self.config.flashes
        if has_vcpus and not has_code and self._template is not None:
            raise StratovirtError("the machine was restored without -kernel and cannot be reset")
        self._reset(guest=False, reason="host-qmp-system-reset")

    def _reset(self, *, guest: bool, reason: str) -> None:
        was_running = self.status == "running"
        if was_running:
            self._halt("paused")
        self.machine.reset()
        log.info(f"the machine starts anew: {reason}")
        self.send_event("RESET", {"guest": guest, "reason": reason})
        if was_running:
            self._go()

    def save_to(self, folder: str) -> None:
        """Begin a snapshot of the paused machine; raises StratovirtError."""
        board = self.machine.board
        if board is None:
            raise StratovirtError("there is no machine that could be saved")
        if not self._has_started:
            raise SnapshotError("the machine has not started yet; try again")
        if self.status not in RESUMABLE:
            raise SnapshotError(f"the machine is in state {self.status}; pause it first (stop)")
        self._refuse_while_saving("migrate")
        from stratovirt.snapshot.capture import capture

        state = capture(self.config, board, board.accelerator)
        self.saving.begin(folder, state, board.ram_mapping, self.access, self._saved)

    def _saved(self, snapshot: Snapshot) -> None:
        has_succeeded = snapshot.status == "completed"
        if has_succeeded and self.status == "paused":
            self._set_status("postmigrate")
        content: dict[str, object] = {"status": snapshot.status}
        if snapshot.error:
            content["error-desc"] = snapshot.error
        self.send_event("MIGRATION", content)
        if self.saving.holds_up_end and not has_succeeded:
            self.exit_status = 1

    def _refuse_while_saving(self, command: str) -> None:
        if self.saving.is_active:
            raise SnapshotError(
                f"{command}: a snapshot is being written; wait for it or cancel it (migrate_cancel)"
            )

    def press_power_button(self) -> None:
        """Request a power-off from the guest; raises StratovirtError."""
        self.machine.press_power_button()
        log.info("the power button is pressed")
        self.send_event("POWERDOWN")

    def request_shutdown(self, *, guest: bool, reason: str) -> None:
        """End the machine soon; called from any thread, only the first call has an effect."""
        self.loop.call_soon(lambda: self._shut_down(guest, reason))

    def _user_quit(self) -> None:
        self.request_shutdown(guest=False, reason="host-ui")

    def _signalled(self) -> None:
        self._shut_down(guest=False, reason="host-signal")
        self.saving.hurry()

    def _shut_down(self, guest: bool, reason: str) -> None:
        if self._ending:
            return
        if self.saving.delays(lambda: self._shut_down(guest, reason), reason):
            # The user has asked for both.
            return
        self._ending = True
        log.info(f"the machine ends: {reason}")
        self.send_event("SHUTDOWN", {"guest": guest, "reason": reason})
        self._set_status("shutdown")
        self.loop.stop()

    def vcpu_exited(self, end: VcpuExit) -> None:
        """A vCPU's run has ended: by the guest's wish, by a triple fault, or on an error."""
        if end.kind == VcpuExit.DISCONNECTED:
            self.request_shutdown(guest=False, reason="host-signal")
        elif end.kind == VcpuExit.POWER_OFF:
            self.guest_powers_off()
        elif end.kind == VcpuExit.RESET:
            self.guest_resets()
        else:
            log.error(end.text)
            if end.kind == VcpuExit.SHUTDOWN:
                self.guest_resets()
            else:
                self._fail()

    def _fail(self) -> None:
        """Stop the machine after a fatal error; without monitors, end it."""
        if self.status == "running":
            self._halt("internal-error")
            self.send_event("STOP")
        if not self._monitors:
            # Without a monitor no client could inspect or end the machine, so it ends by itself.
            self.exit_status = 1
            self._shut_down(False, "host-error")

    def send_event(self, name: str, content: dict[str, object] | None = None) -> None:
        """Send an event to the clients of all monitors."""
        QMP_EVENT(name)
        for monitor in self._monitors:
            monitor.send_event(name, content)
