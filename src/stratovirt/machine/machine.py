"""A machine's parts (accelerator, I/O threads, board, vCPUs) and the operations on them."""

from __future__ import annotations

from stratovirt.architectures import load, of_this_host
from stratovirt.config.buses import DeviceId
from stratovirt.errors import StratovirtError
from stratovirt.machine.inventory import Inventory
from stratovirt.runtime.log import Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import RLock
    from collections.abc import Iterable
    from contextlib import ExitStack
    from typing import Protocol

    from stratovirt.accel.base import Accelerator
    from stratovirt.accel.kvm.machine import KvmAccelerator
    from stratovirt.accel.vcpu import VcpuExit
    from stratovirt.block.image import Image
    from stratovirt.chardev.backend import Chardev
    from stratovirt.config.chardev import Chardev as ChardevOptions
    from stratovirt.config.vm_config import VmConfig
    from stratovirt.cpu.slots import CpuSlot
    from stratovirt.host.access import HostAccess
    from stratovirt.machine.board import Board
    from stratovirt.machine.hot_plug import HotPlug
    from stratovirt.machine.part import BoardContext, BoardTemplate
    from stratovirt.memory.dirty_rate import DirtyRate
    from stratovirt.memory.ram import RamPiece
    from stratovirt.runtime.loop import Loop
    from stratovirt.runtime.process import Process
    from stratovirt.virtio.balloon import Balloon
    from stratovirt.virtio.blk import Blk
    from stratovirt.virtio.device import VirtioDevice
    from stratovirt.virtio.net import Net

    class Template(BoardTemplate, Protocol):
        """A snapshot that the machine starts from: see snapshot.restore.Template."""

        def apply(self, board: Board, accelerator: Accelerator) -> None:
            """Load the saved state into a newly built machine; raises SnapshotError."""

    class Owner(Protocol):
        """The process around a machine: gives loop, lock, files; is told of the guest's ends."""

        loop: Loop
        lock: RLock
        process: Process
        access: HostAccess
        closing: ExitStack
        """Runs what is registered, in reverse order, at the machine's end or failed start."""

        def add_chardev(self, options: ChardevOptions, source: str = "") -> Chardev:
            """Create a chardev, to be opened before the machine starts; raises StratovirtError."""

        def send_event(self, name: str, content: dict[str, object] | None = None) -> None:
            """Send an event to the clients of all monitors."""

        def guest_resets(self) -> None:
            """The guest requested a reset; called from any thread."""

        def guest_powers_off(self) -> None:
            """The guest powered itself off; called from any thread."""

        def vcpu_exited(self, end: VcpuExit) -> None:
            """A vCPU's run has ended, and what follows is the machine's to decide."""

        def request_shutdown(self, *, guest: bool, reason: str) -> None:
            """End the machine soon; called from any thread."""


log = Log(__name__)


class Machine:
    """Empty until `build`; a machine of type none stays empty: no board and no accelerator.

    Each part is registered in its owner's `closing` where it is made.  The guest's architecture is
    the host's; a host of an unknown one raises StratovirtError.
    """

    def __init__(self, config: VmConfig) -> None:
        self.architecture = of_this_host()
        self._config = config
        self.accelerator: Accelerator | None = None
        self.board: Board | None = None
        self.inventory = Inventory(config)
        self.dirty_rate: DirtyRate | None = None
        """The last measurement that went on."""

    def build(self, owner: Owner, template: Template | None) -> None:
        """Create the parts of the configuration or the template; events go to `owner`.

        Raises StratovirtError.
        """
        config = self._config
        if config.cpu.partition(",")[0] != "host":
            log.warn(f"-cpu {config.cpu}: the guest gets the host's CPU, the only model there is")
        accelerator = self._open_accelerator(owner)
        serial = owner.add_chardev(config.serial) if config.serial is not None else None
        accelerator.interrupt_controller.create()
        from stratovirt._native.guest_memory import GuestMemory
        from stratovirt.devices.device_host import DeviceHost
        from stratovirt.machine.part import BoardContext

        self._start_iothreads(owner.closing)
        host = DeviceHost(
            process=owner.process,
            config=config,
            loop=owner.loop,
            clock=accelerator.clock,
            memory=GuestMemory(),
            iothreads=self.inventory.iothreads,
            open_chardev=lambda name: owner.add_chardev(config.chardevs[name]),
            send_event=owner.send_event,
            access=owner.access,
        )
        from stratovirt.cpu.slots import CpuSlots

        cpus = CpuSlots(config, load(self.architecture.hardware_ids)(config.smp))
        context = BoardContext(
            config=config,
            inventory=self.inventory,
            cpus=cpus,
            accelerator=accelerator,
            host=host,
            closing=owner.closing,
            serial=serial,
            guest_reset=owner.guest_resets,
            guest_power_off=owner.guest_powers_off,
            template=template,
        )
        self.board = board = self._make_board(context)
        entry = board.load() if template is None else None
        if config.flashes or board.has_large_kernel:
            accelerator.check_host()
        owner.closing.callback(accelerator.stop)
        accelerator.create_vcpus(cpus, "CPU {}/KVM" if self._names_as_qemu else "vcpu{}")
        if entry is not None:
            accelerator.set_entry(entry)
        if template is not None:
            template.apply(board, accelerator)
        names = [device.name for device in board.devices]
        log.info(f"{len(names)} virtio devices{': ' if names else ''}{', '.join(names)}")
        if config.kernel is not None and template is None:
            log.info(f"the kernel {config.kernel} is loaded")

    def _open_accelerator(self, owner: Owner) -> Accelerator:
        accelerator: Accelerator
        if self._config.mod_test is not None:
            from stratovirt.accel.test.machine import TestAccelerator

            accelerator = TestAccelerator(owner.loop, owner.lock, self._config.mod_test)
        else:
            kvm: type[KvmAccelerator] = load(self.architecture.accelerator)
            accelerator = kvm(owner.loop, owner.lock)
        owner.closing.callback(accelerator.close)
        accelerator.exited = owner.vcpu_exited
        self.accelerator = accelerator
        return accelerator

    def _start_iothreads(self, closing: ExitStack) -> None:
        names = [o.id for o in self._config.objects.values() if o.flag == "-object iothread"]
        if names:
            from stratovirt.runtime.io_thread import IoThread

            for name in names:
                thread = IoThread(f"IO {name}" if self._names_as_qemu else name)
                closing.callback(thread.close)
                self.inventory.iothreads[name] = thread

    @property
    def _names_as_qemu(self) -> bool:
        return self._config.name is not None and self._config.name.debug_threads

    def _make_board(self, context: BoardContext) -> Board:
        board: Board = load(self.architecture.boards[self._config.machine.type].board)(context)
        return board

    def pause(self) -> None:
        """Stop the vCPUs and drain the devices; afterwards no guest state changes."""
        if self.accelerator is not None and self.board is not None:
            self.accelerator.pause()
            for device in self.board.devices:
                device.quiesce()

    def start(self) -> None:
        """The process is ready to run the machine; called once, before the first `resume`."""
        if self.accelerator is not None:
            self.accelerator.start()

    def resume(self) -> None:
        """Let devices and vCPUs run."""
        if self.accelerator is not None and self.board is not None:
            for device in self.board.devices:
                device.resume()
            self.accelerator.resume()

    def reset(self) -> None:
        """Reset the paused machine to power-on state; raises StratovirtError."""
        assert self.board is not None and self.accelerator is not None
        entry = self.board.reset()
        self.accelerator.reset()
        if entry is not None:
            self.accelerator.set_entry(entry)

    @property
    def target(self) -> str:
        """The guest architecture, with or without a board."""
        return self.architecture.name

    @property
    def devices(self) -> list[VirtioDevice]:
        """All virtio devices."""
        return self.board.devices if self.board is not None else []

    def _devices_of(self, device_id: int) -> list[VirtioDevice]:
        return [device for device in self.devices if device.device_id == device_id]

    @property
    def disks(self) -> list[tuple[Blk, Image]]:
        """The block devices with a medium, each with its image."""
        disks: list[Blk] = self._devices_of(DeviceId.BLOCK)  # type: ignore[assignment]
        return [(disk, disk.image) for disk in disks if disk.image is not None]

    @property
    def cards(self) -> list[Net]:
        """The network cards."""
        return self._devices_of(DeviceId.NET)  # type: ignore[return-value]

    @property
    def balloon(self) -> Balloon | None:
        """The balloon device, if there is one."""
        found = self._devices_of(DeviceId.BALLOON)
        return found[0] if found else None  # type: ignore[return-value]

    @property
    def hot_plug(self) -> HotPlug | None:
        """Hotplug of the board; None without a board or if the board has none."""
        return self.board.hot_plug if self.board is not None else None

    @property
    def ram_pieces(self) -> list[RamPiece]:
        """The pieces of RAM in the board's order of addresses."""
        return self.board.ram_pieces if self.board is not None else []

    def read_memory(self, gpa: int, size: int) -> bytes:
        """Read guest RAM; raises ValueError for an address without RAM."""
        if self.board is None:
            raise ValueError("there is no machine")
        return self.board.guest_memory.read(gpa, size)

    def begin_dirty_rate(self) -> DirtyRate:
        """Prepare to measure how much memory the machine writes; raises StratovirtError."""
        from stratovirt.memory.dirty_rate import DirtyRate

        if self.board is None:
            raise StratovirtError("there is no machine that writes memory")
        rate = DirtyRate(self.board.guest_memory, self.board.accelerator.clock)
        rate.begin()
        return rate

    @property
    def runs_vcpus(self) -> bool:
        """Whether there are vCPUs, and not a test client in their place."""
        return self.accelerator is not None and bool(self.accelerator.vcpus)

    @property
    def cpus(self) -> Iterable[CpuSlot]:
        """The places for vCPUs; none without a board."""
        return self.board.cpus if self.board is not None else ()

    def press_power_button(self) -> None:
        """Request a power-off from the guest; raises StratovirtError."""
        if self.board is None:
            raise StratovirtError("there is no machine that has a power button")
        self.board.press_power_button()
