"""The machine's life: built, started, paused, ended. Owner of everything below it."""

from __future__ import annotations

import _thread
import signal

from stratovirt.accel.base import AccelError
from stratovirt.accel.kvm.machine import KvmAccelerator
from stratovirt.accel.kvm.vcpu import ExitReport
from stratovirt.chardev.open import AnyChardev, make_chardev
from stratovirt.config.vm_config import VmConfig
from stratovirt.machine import microvm_x86_64_layout
from stratovirt.machine.microvm_x86_64 import Microvm
from stratovirt.runtime.log import Log
from stratovirt.runtime.loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.accel.test import TestAccelerator
    from stratovirt.monitor.server import QmpServer

log = Log(__name__)


class Vm:
    """One machine in this process.

    Python device code and all of this class run under `lock`, in whichever thread; the loop
    takes it for every callback and the dispatcher for every access.  `status` is one of the
    states of QMP's query-status.
    """

    def __init__(self, config: VmConfig) -> None:
        self.config = config
        self.lock = _thread.RLock()
        self.loop = Loop(self.lock)
        self.status = "prelaunch"
        self.exit_status = 0
        self._ending = False
        self._monitor: QmpServer | None = None
        self._kvm: KvmAccelerator | None = None
        self._test: TestAccelerator | None = None
        self._serial: AnyChardev | None = None
        self._board: Microvm | None = None

    def build(self) -> None:
        """Create everything the configuration names; raises StratovirtError."""
        config = self.config
        if config.accel == "test":
            from stratovirt.accel.test import TestAccelerator

            assert config.mod_test is not None
            self._test = TestAccelerator(self.loop, self.lock, config.mod_test)
            self._test.disconnected = lambda: self.request_shutdown(
                guest=False, reason="host-signal"
            )
        else:
            self._kvm = KvmAccelerator(self.loop, self.lock)
            self._kvm.exited = self._vcpu_exited
        if config.serial is not None:
            self._serial = make_chardev(
                self.loop,
                config.serial,
                lambda: self.request_shutdown(guest=False, reason="host-ui"),
            )
        if self._kvm is not None:
            self._prepare_kvm(self._kvm)
        accelerator = self._kvm or self._test
        assert accelerator is not None
        self._board = Microvm(
            config,
            accelerator,
            self.loop,
            self._serial,
            guest_reset=lambda: self.request_shutdown(guest=True, reason="guest-reset"),
            guest_power_off=lambda: self.request_shutdown(guest=True, reason="guest-shutdown"),
        )
        entry = self._board.load()
        if self._kvm is not None and entry is not None:
            self._enter_kvm(self._kvm, entry)
        if config.qmp is not None:
            from stratovirt.monitor.server import QmpServer

            self._monitor = QmpServer(self.loop, self, config.qmp)

    def _prepare_kvm(self, kvm: KvmAccelerator) -> None:
        from stratovirt.accel.kvm import x86_64

        layout = microvm_x86_64_layout
        try:
            x86_64.create_interrupt_controllers(kvm, layout.IDENTITY_MAP, layout.TSS)
        except OSError as error:
            raise AccelError(f"-accel kvm: {error.strerror}") from error

    def _enter_kvm(self, kvm: KvmAccelerator, entry: object) -> None:
        from stratovirt.accel.kvm import x86_64
        from stratovirt.cpu.x86_64_boot import EntryPoint

        assert isinstance(entry, EntryPoint)
        try:
            x86_64.create_vcpus(kvm, self.config.smp)
            x86_64.set_entry(kvm, entry)
        except OSError as error:
            raise AccelError(
                f"-smp {self.config.smp.cpus}: KVM cannot create the vCPUs: {error.strerror}"
            ) from error

    def run(self) -> int:
        """Run the machine until it ends; returns the exit status for the process."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self.loop.on_signal(
                number, lambda: self.request_shutdown(guest=False, reason="host-signal")
            )
        qmp = self.config.qmp
        if (
            self._monitor is not None
            and qmp is not None
            and not qmp.nowait
            and qmp.wait is not False
        ):
            self._monitor.wait_for_client()
        with self.lock:
            if self._serial is not None:
                self._serial.open()
            if self._test is not None:
                self._test.resume()
            if not self.config.start_paused:
                self.resume()
        self.loop.run()
        return self.exit_status

    def close(self) -> None:
        """End everything that runs, in order: vCPUs, devices, monitor."""
        with self.lock:
            accelerator = self._kvm or self._test
            if accelerator is not None:
                accelerator.stop()
            if self._board is not None:
                self._board.close()
            if self._monitor is not None:
                self._monitor.close()
        self.loop.close()

    @property
    def target(self) -> str:
        """The architecture of the board."""
        return self._board.target if self._board is not None else "none"

    def vcpu_thread_ids(self) -> list[int]:
        """The host thread of each vCPU, 0 while it has not run."""
        if self._kvm is None:
            return [0] * self.config.smp.cpus
        return [vcpu.thread_id for vcpu in self._kvm.vcpus]

    def pause(self) -> None:
        """Stop vCPUs and drain devices; when this returns nothing of the machine moves."""
        if self.status != "running":
            return
        self._halt("paused")
        self._event("STOP")

    def _halt(self, status: str) -> None:
        accelerator = self._kvm or self._test
        assert accelerator is not None and self._board is not None
        accelerator.pause()
        for device in self._board.devices:
            device.quiesce()
        self.status = status

    def resume(self) -> None:
        """Run, the first time or after a pause; an ended or failed machine stays as it is."""
        if self.status not in ("prelaunch", "paused"):
            return
        assert self._board is not None
        first = self.status == "prelaunch"
        self.status = "running"
        for device in self._board.devices:
            device.resume()
        accelerator = self._kvm or self._test
        assert accelerator is not None
        accelerator.resume()
        if not first or self.config.start_paused:
            self._event("RESUME")

    def request_shutdown(self, *, guest: bool, reason: str) -> None:
        """End the machine soon; from any thread, heeded once."""
        self.loop.call_soon(lambda: self._shut_down(guest, reason))

    def _shut_down(self, guest: bool, reason: str) -> None:
        if self._ending:
            return
        self._ending = True
        log.info(f"the machine ends: {reason}")
        self._event("SHUTDOWN", {"guest": guest, "reason": reason})
        self.status = "shutdown"
        self.loop.stop()

    def _vcpu_exited(self, report: ExitReport) -> None:
        log.error(report.text)
        if report.reset:
            self._shut_down(True, "guest-reset")
            return
        if self.status == "running":
            self._halt("internal-error")
            self._event("STOP")
        if self._monitor is None:
            # Nobody could look at the machine or end it, so it ends by itself.
            self.exit_status = 1
            self._shut_down(False, "host-error")

    def _event(self, name: str, content: dict[str, object] | None = None) -> None:
        if self._monitor is not None:
            self._monitor.send_event(name, content)
