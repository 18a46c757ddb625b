"""The board interface that a machine uses on any architecture, and the parts common to boards."""

from __future__ import annotations

from abc import ABC, abstractmethod

from stratovirt.boot.image import BootFile, KernelFile
from stratovirt.config.vm_config import VmConfig
from stratovirt.memory.address_space import AddressSpace, IoRegion
from stratovirt.memory.ram import Ram

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import ExitStack
    from typing import Protocol

    from stratovirt.accel.base import Accelerator
    from stratovirt.chardev.backend import Chardev
    from stratovirt.cpu.slots import CpuSlots
    from stratovirt.devices.device_host import DeviceHost
    from stratovirt.machine.hot_plug import HotPlug
    from stratovirt.machine.inventory import Inventory
    from stratovirt.memory.address_space import Handler
    from stratovirt.memory.ram import RamTemplate
    from stratovirt.snapshot.state import Entry
    from stratovirt.virtio.device import VirtioDevice

    class BoardTemplate(RamTemplate, Protocol):
        """A snapshot that a board starts from: see snapshot.restore.Template."""

        def has(self, path: str) -> bool:
            """Whether the snapshot's machine has a part at this path of its tree of states."""


PHYSICAL_ADDRESS_BITS = 52
PORT_SPACE = 1 << 16
LARGE_KERNEL = 1 << 20


class BoardContext:
    """What a board is built with: configuration, inventory, accelerator, and what is around it.

    `closing` takes the close of each part where the part is made, and runs them in reverse order.
    `guest_reset` and `guest_power_off` are called when the guest does either.  With a `template`
    RAM has the content of a snapshot.
    """

    def __init__(
        self,
        *,
        config: VmConfig,
        inventory: Inventory,
        cpus: CpuSlots,
        accelerator: Accelerator,
        host: DeviceHost,
        closing: ExitStack,
        serial: Chardev | None,
        guest_reset: Callable[[], None],
        guest_power_off: Callable[[], None],
        template: BoardTemplate | None = None,
    ) -> None:
        self.config, self.inventory = config, inventory
        self.cpus, self.accelerator, self.host = cpus, accelerator, host
        self.closing, self.serial, self.template = closing, serial, template
        self.guest_reset, self.guest_power_off = guest_reset, guest_power_off


class Board(ABC):
    """A board: RAM, devices and boot code of a machine; subclasses add the devices.

    The table of architectures names the subclasses; each is made with a `BoardContext`.
    """

    bus: str
    """The bus of its virtio devices."""
    late_modules: tuple[str, ...] = ()
    """Modules that are imported while the machine runs; a locked-down one loads them before."""
    restarts_on_reset = False
    """Whether a reset by the guest reboots the machine; otherwise it ends the machine."""

    def __init__(self, context: BoardContext, room: list[tuple[int, int]]) -> None:
        self.config = config = context.config
        self.inventory = context.inventory
        self.cpus = context.cpus
        self.accelerator = accelerator = context.accelerator
        self.host = host = context.host
        self.closing = context.closing
        self.serial = context.serial
        self.ram = room
        self.memory_space = AddressSpace("memory", 1 << PHYSICAL_ADDRESS_BITS)
        self.port_space = AddressSpace("port", PORT_SPACE)
        self.guest_memory = host.memory
        self.hot_plug: HotPlug | None = None
        self.kernel: KernelFile | None = None
        if config.kernel is not None:
            self.kernel = KernelFile(config.kernel)
            self.closing.callback(self.kernel.close)
        self.initrd: BootFile | None = None
        if config.initrd is not None:
            self.initrd = BootFile("-initrd", config.initrd)
            self.closing.callback(self.initrd.close)
        accelerator.connect(self.guest_memory, self.memory_space, self.port_space)
        ram = Ram(config, context.template)
        self.ram_mapping, self.allocations = ram.mapping, ram.allocations
        self.ram_pieces = ram.place(self.guest_memory, self.memory_space, room)

    @property
    @abstractmethod
    def devices(self) -> list[VirtioDevice]:
        """All virtio devices."""

    @abstractmethod
    def load(self) -> object | None:
        """Load kernel or firmware; returns the first vCPU's entry, None for its reset vector.

        The entry has the type that the accelerator's `set_entry` takes.
        """

    @abstractmethod
    def reset(self) -> object | None:
        """Reset all devices to power-on state and call `load`; vCPUs must be paused."""

    @abstractmethod
    def states(self) -> Iterable[Entry]:
        """The parts with their paths in the tree of states, in the order of their restore."""

    @property
    def obstacle(self) -> str | None:
        """Why the paused machine cannot be saved, in a sentence; None when its parts decide."""
        added = next((device for device in self.inventory.devices if device.is_added), None)
        if added is not None:
            return f"{added.key}: it was added while the machine ran; remove it first (device_del)"
        return None

    @abstractmethod
    def restored(self) -> None:
        """Tell the guest that it is a clone, once all states are restored."""

    @abstractmethod
    def press_power_button(self) -> None:
        """Signal a power-off request to the guest through ACPI."""

    def add_ports(self, name: str, port: int, size: int, handler: Handler) -> None:
        """Map `handler` at a range of I/O ports."""
        self.port_space.add(port, IoRegion(name, size, handler))

    @property
    def has_large_kernel(self) -> bool:
        """Whether the kernel may be a distribution's (by its size), not a small payload."""
        return self.kernel is not None and self.kernel.size >= LARGE_KERNEL
