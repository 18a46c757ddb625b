"""The machine's life: built, started, paused, reset, ended. Owner of everything below it."""

from __future__ import annotations

import _thread
import signal

from stratovirt.accel.base import AccelError
from stratovirt.config.vm_config import VmConfig
from stratovirt.errors import StratovirtError
from stratovirt.host.access import HostAccess
from stratovirt.runtime.log import Log
from stratovirt.runtime.loop import Loop
from stratovirt.runtime.trace_events import QMP_EVENT, VM_STATUS
from stratovirt.snapshot.state import SnapshotError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from stratovirt.accel.base import Accelerator
    from stratovirt.accel.kvm.machine import KvmAccelerator
    from stratovirt.accel.kvm.vcpu import ExitReport
    from stratovirt.accel.kvm.x86_64 import FixedPages
    from stratovirt.block.image import Image
    from stratovirt.chardev.backend import Chardev
    from stratovirt.config.chardev import Chardev as ChardevOptions
    from stratovirt.cpu.x86_64_boot import EntryPoint
    from stratovirt.host.line import BrokerLine
    from stratovirt.machine.device_host import DeviceHost
    from stratovirt.machine.hot_plug import HotPlug
    from stratovirt.machine.x86_64_board import Board
    from stratovirt.memory.ram import RamPiece
    from stratovirt.monitor.session import Session
    from stratovirt.runtime.io_thread import IoThread
    from stratovirt.snapshot.restore import Template
    from stratovirt.snapshot.save import Snapshot
    from stratovirt.virtio.balloon import Balloon
    from stratovirt.virtio.blk import Blk
    from stratovirt.virtio.device import VirtioDevice
    from stratovirt.virtio.net import Net

log = Log(__name__)

NET, BLOCK, BALLOON = 1, 2, 5
"""Device ids (virtio 1.2, section 5)."""
RESUMABLE = ("prelaunch", "paused", "postmigrate")
"""States in which the machine rests and may go on."""


class Vm:
    """One machine in this process.

    Python device code and all of this class run under `lock`, in whichever thread; the loop
    takes it for every callback and the dispatcher for every access.  `status` is one of the
    states of QMP's query-status.  A machine of type none has no board and no accelerator.
    """

    def __init__(self, config: VmConfig) -> None:
        self.config = config
        self.lock = _thread.RLock()
        self.loop = Loop(self.lock)
        self.status = "prelaunch"
        self.exit_status = 0
        self.chardevs: list[Chardev] = []
        self.iothreads: dict[str, IoThread] = {}
        self._ending = False
        self._is_resetting = False
        self._sessions: list[Session] = []
        self._accelerator: Accelerator | None = None
        self._kvm: KvmAccelerator | None = None
        self._board: Board | None = None
        self._template: Template | None = None
        self.access = HostAccess()
        self._broker: BrokerLine | None = None
        self.snapshot: Snapshot | None = None
        """The last that was begun."""

    def build(self) -> None:
        """Create everything the configuration names; raises StratovirtError."""
        config = self.config
        if self._is_locked_down and config.needs_broker:
            from stratovirt.host.broker import start_broker

            self._broker = start_broker(config)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self.loop.on_signal(number, self._signalled)
        for monitor, chardev in zip(config.monitors, self._open_monitors(), strict=True):
            from stratovirt.monitor.session import Session

            self._sessions.append(Session(self, chardev, pretty=monitor.pretty))
        if config.machine.type != "none":
            if config.incoming is not None:
                from stratovirt.snapshot.restore import Template

                self._template = Template(config)
            self._build_board()

    @property
    def _is_locked_down(self) -> bool:
        """Whether this process gives up its rights before the guest runs."""
        return self.config.seccomp and self.config.machine.type != "none"

    def _open_monitors(self) -> Sequence[Chardev]:
        if self._broker is not None:
            relayed = self._broker.open_monitors(self.loop, self.config.monitors)
            self.chardevs += relayed
            return relayed
        return [
            self._add_chardev(monitor.chardev, monitor.source)
            for monitor in self.config.monitors
            if monitor.chardev is not None
        ]

    def _add_chardev(self, options: ChardevOptions, source: str = "") -> Chardev:
        from stratovirt.chardev.open import make_chardev

        chardev = make_chardev(self.loop, options, self.access, self._user_quit, source)
        self.chardevs.append(chardev)
        return chardev

    def _build_board(self) -> None:
        config = self.config
        if config.cpu.partition(",")[0] != "host":
            log.warn(f"-cpu {config.cpu}: the guest gets the host's CPU, the only model there is")
        if config.accel == "test":
            from stratovirt.accel.test import TestAccelerator

            assert config.mod_test is not None
            test = TestAccelerator(self.loop, self.lock, config.mod_test)
            test.disconnected = lambda: self.request_shutdown(guest=False, reason="host-signal")
            self._accelerator = test
        else:
            from stratovirt.accel.kvm.machine import KvmAccelerator

            self._accelerator = self._kvm = KvmAccelerator(self.loop, self.lock)
            self._kvm.exited = self._vcpu_exited
        serial = None
        if config.serial is not None:
            serial = self._add_chardev(config.serial)
        if self._kvm is not None:
            self._prepare_kvm(self._kvm)
        from stratovirt._native.guest_memory import GuestMemory
        from stratovirt.machine.device_host import DeviceHost

        self._start_iothreads()
        host = DeviceHost(
            config=config,
            loop=self.loop,
            clock=self._accelerator.clock,
            memory=GuestMemory(),
            iothreads=self.iothreads,
            open_chardev=lambda name: self._add_chardev(config.chardevs[name]),
            send_event=self._event,
            access=self.access,
        )
        self._board = self._make_board(host, serial)
        if self._template is not None:
            if self._kvm is not None:
                self._create_vcpus(self._kvm)
            self._template.apply(self._board, self._kvm)
            return
        entry = self._board.load()
        if self._kvm is not None:
            self._create_vcpus(self._kvm)
            if entry is not None:
                self._enter_kvm(self._kvm, entry)

    def _make_board(self, host: DeviceHost, serial: Chardev | None) -> Board:
        config, accelerator = self.config, self._accelerator
        assert accelerator is not None
        if config.machine.type == "q35":
            from stratovirt.machine.q35_x86_64 import Q35

            return Q35(
                config, accelerator, host, serial, self._guest_resets, self._guest_powers_off
            )
        from stratovirt.machine.microvm_x86_64 import Microvm

        return Microvm(
            config,
            accelerator,
            host,
            serial,
            self._guest_resets,
            self._guest_powers_off,
            self._template,
        )

    def _guest_powers_off(self) -> None:
        self.request_shutdown(guest=True, reason="guest-shutdown")

    def _guest_resets(self) -> None:
        """The guest pulled a reset line; from any thread."""
        assert self._board is not None
        if not self._board.restarts_on_reset:
            self.request_shutdown(guest=True, reason="guest-reset")
        elif not self._is_resetting:
            # What else it pulls before it stands still is the same reset.
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

    def _start_iothreads(self) -> None:
        names = [o.id for o in self.config.objects.values() if o.flag == "-object iothread"]
        if names:
            from stratovirt.runtime.io_thread import IoThread

            self.iothreads = {
                name: IoThread(f"IO {name}" if self._names_threads else None) for name in names
            }

    @property
    def _names_threads(self) -> bool:
        return self.config.name is not None and self.config.name.debug_threads

    def _prepare_kvm(self, kvm: KvmAccelerator) -> None:
        from stratovirt.accel.kvm import x86_64

        try:
            x86_64.create_interrupt_controllers(kvm.vm, self._fixed_pages())
        except OSError as error:
            raise AccelError(f"-accel kvm: {error.strerror}") from error

    def _fixed_pages(self) -> FixedPages:
        from stratovirt.accel.kvm.x86_64 import FixedPages
        from stratovirt.machine import microvm_x86_64_layout as layout

        return FixedPages(layout.IDENTITY_MAP, layout.TSS)

    def _enter_kvm(self, kvm: KvmAccelerator, entry: EntryPoint) -> None:
        from stratovirt.accel.kvm import x86_64

        try:
            x86_64.set_entry(kvm, entry)
        except OSError as error:
            raise AccelError(f"-accel kvm: KVM refuses the entry: {error.strerror}") from error

    def _create_vcpus(self, kvm: KvmAccelerator) -> None:
        from stratovirt.accel.kvm import x86_64

        try:
            x86_64.create_vcpus(kvm, self.config.smp)
            if self._names_threads:
                for index, vcpu in enumerate(kvm.vcpus):
                    vcpu.name = f"CPU {index}/KVM"
        except OSError as error:
            raise AccelError(
                f"-smp {self.config.smp.cpus}: KVM cannot create the vCPUs: {error.strerror}"
            ) from error

    def open(self) -> None:
        """Open the chardevs, and wait for clients that must be there first."""
        with self.lock:
            for chardev in self.chardevs:
                chardev.open()
        if self._broker is not None:
            self._broker.serve(self._user_quit)
        for chardev in self.chardevs:
            if chardev.waits:
                log.info(f"waiting for a client of chardev {chardev.label}")
                self.loop.run(until=lambda chardev=chardev: chardev.is_connected)  # type: ignore[misc]

    def start(self) -> None:
        """Give up all rights that a running machine does not need, and run the vCPUs."""
        if self.loop.is_stopped:
            return
        with self.lock:
            if self._is_locked_down:
                self._lock_down()
            if self.config.accel == "test" and self._accelerator is not None:
                self._accelerator.resume()
            if not self.config.start_paused:
                self.resume()

    def _lock_down(self) -> None:
        from stratovirt.lockdown import lock_down
        from stratovirt.runtime import cleanup

        if self._broker is not None:
            self._broker.ask(
                "seal",
                removals=[(path, *identity) for path, identity in cleanup.take_removals()],
                detached=self.config.daemonize,
            )
            self.access.use(self._broker)
        lock_down(self.config, self._board, self._broker)

    def run(self) -> int:
        """Serve the machine until it ends; returns the exit status for the process."""
        self.loop.run()
        return self.exit_status

    def close(self) -> None:
        """End everything that runs, in order: vCPUs, devices, monitors."""
        if self.snapshot is not None:
            self.snapshot.cancel()
            self.snapshot.wait()
        if self._template is not None:
            self._template.close()
        with self.lock:
            if self._accelerator is not None:
                self._accelerator.stop()
            if self._board is not None:
                self._board.close()
            for thread in self.iothreads.values():
                thread.close()
            for session in self._sessions:
                session.close()
            for chardev in self.chardevs:
                chardev.close()
        if self._broker is not None:
            self._broker.close()
        self.loop.close()

    @property
    def target(self) -> str:
        """The architecture of the board; of the host's guests where there is no board."""
        return "x86_64"

    @property
    def disks(self) -> list[tuple[Blk, Image]]:
        """The block devices that have a medium, each with it."""
        disks: list[Blk] = self._devices_of(BLOCK)  # type: ignore[assignment]
        return [(disk, disk.image) for disk in disks if disk.image is not None]

    @property
    def cards(self) -> list[Net]:
        """The network cards."""
        return self._devices_of(NET)  # type: ignore[return-value]

    @property
    def hot_plug(self) -> HotPlug | None:
        """What can be added and removed while the machine runs; None without a board."""
        return self._board.hot_plug if self._board is not None else None

    @property
    def balloon(self) -> Balloon | None:
        """The balloon device, if there is one."""
        found = self._devices_of(BALLOON)
        return found[0] if found else None  # type: ignore[return-value]

    def _devices_of(self, device_id: int) -> list[VirtioDevice]:
        devices = self._board.devices if self._board is not None else []
        return [device for device in devices if device.device_id == device_id]

    @property
    def ram_pieces(self) -> list[RamPiece]:
        """Each piece of RAM, by address."""
        return self._board.ram_pieces if self._board is not None else []

    def read_memory(self, gpa: int, size: int) -> bytes:
        """Guest RAM; raises ValueError where there is none."""
        if self._board is None:
            raise ValueError("there is no machine")
        return self._board.guest_memory.read(gpa, size)

    def vcpu_thread_ids(self) -> list[int]:
        """The host thread of each vCPU, 0 while it has not run."""
        if self._board is None:
            return []
        if self._kvm is None:
            return [0] * self.config.smp.cpus
        return [vcpu.thread_id for vcpu in self._kvm.vcpus]

    def pause(self) -> None:
        """Stop vCPUs and drain devices; when this returns nothing of the machine moves."""
        if self.status != "running":
            return
        self._halt("paused")
        self._event("STOP")

    def _set_status(self, status: str) -> None:
        self.status = status
        VM_STATUS(status)

    def _halt(self, status: str) -> None:
        if self._accelerator is not None and self._board is not None:
            self._accelerator.pause()
            for device in self._board.devices:
                device.quiesce()
        self._set_status(status)

    def resume(self) -> None:
        """Run, the first time or after a pause; an ended or failed machine stays as it is."""
        if self.status not in RESUMABLE:
            return
        self._refuse_while_saving("cont")
        first = self.status == "prelaunch"
        self._go()
        if not first or self.config.start_paused:
            self._event("RESUME")

    def _go(self) -> None:
        self._set_status("running")
        if self._accelerator is not None and self._board is not None:
            for device in self._board.devices:
                device.resume()
            self._accelerator.resume()

    def reset(self) -> None:
        """Start the guest anew, from the state of power-on; raises StratovirtError."""
        if self._board is None:
            raise StratovirtError("there is no machine that could be reset")
        if self._kvm is not None and self.status not in ("running", *RESUMABLE):
            raise StratovirtError(f"the machine is in state {self.status} and cannot be reset")
        self._refuse_while_saving("system_reset")
        if self._kvm is not None and self.config.kernel is None and self._template is not None:
            raise StratovirtError("the machine was restored without -kernel and cannot be reset")
        self._reset(guest=False, reason="host-qmp-system-reset")

    def _reset(self, *, guest: bool, reason: str) -> None:
        assert self._board is not None
        was_running = self.status == "running"
        if was_running:
            self._halt("paused")
        entry = self._board.reset()
        if self._kvm is not None:
            from stratovirt.accel.kvm import x86_64

            x86_64.reset(self._kvm, self.config.smp, self._fixed_pages(), entry)
        self._event("RESET", {"guest": guest, "reason": reason})
        if was_running:
            self._go()

    def save_to(self, folder: str) -> None:
        """Begin a snapshot of the paused machine; raises StratovirtError."""
        if self._board is None:
            raise StratovirtError("there is no machine that could be saved")
        if self.status not in RESUMABLE:
            raise SnapshotError(f"the machine is in state {self.status}; pause it first (stop)")
        self._refuse_while_saving("migrate")
        from stratovirt.snapshot.capture import capture
        from stratovirt.snapshot.save import Snapshot

        state = capture(self.config, self._board, self._kvm)
        ram = self._board.ram_mapping
        try:
            self.snapshot = Snapshot(
                folder, state, ram, self.access, lambda: self.loop.call_soon(self._saved)
            )
        except OSError as error:
            raise SnapshotError(f"{folder}: {error.strerror}") from error

    def _saved(self) -> None:
        assert self.snapshot is not None
        if self.snapshot.status == "completed" and self.status == "paused":
            self._set_status("postmigrate")

    def _refuse_while_saving(self, command: str) -> None:
        if self.snapshot is not None and self.snapshot.is_active:
            raise SnapshotError(
                f"{command}: a snapshot is being written; wait for it or cancel it (migrate_cancel)"
            )

    def press_power_button(self) -> None:
        """Ask the guest to power itself off; raises StratovirtError."""
        if self._board is None:
            raise StratovirtError("there is no machine that has a power button")
        self._board.press_power_button()
        self._event("POWERDOWN")

    def request_shutdown(self, *, guest: bool, reason: str) -> None:
        """End the machine soon; from any thread, heeded once."""
        self.loop.call_soon(lambda: self._shut_down(guest, reason))

    def _user_quit(self) -> None:
        self.request_shutdown(guest=False, reason="host-ui")

    def _signalled(self) -> None:
        self.request_shutdown(guest=False, reason="host-signal")

    def _shut_down(self, guest: bool, reason: str) -> None:
        if self._ending:
            return
        self._ending = True
        log.info(f"the machine ends: {reason}")
        self._event("SHUTDOWN", {"guest": guest, "reason": reason})
        self._set_status("shutdown")
        self.loop.stop()

    def _vcpu_exited(self, report: ExitReport) -> None:
        log.error(report.text)
        if report.reset:
            self._guest_resets()
            return
        self._fail()

    def _fail(self) -> None:
        """The machine cannot go on."""
        if self.status == "running":
            self._halt("internal-error")
            self._event("STOP")
        if not self._sessions:
            # Nobody could look at the machine or end it, so it ends by itself.
            self.exit_status = 1
            self._shut_down(False, "host-error")

    def _event(self, name: str, content: dict[str, object] | None = None) -> None:
        QMP_EVENT(name)
        for session in self._sessions:
            session.send_event(name, content)
