"""The board interface that a machine uses on any architecture, and the parts of a board."""

from __future__ import annotations

from abc import ABC, abstractmethod

from stratovirt.acpi import aml, tables
from stratovirt.boot.image import BootFile, KernelFile
from stratovirt.machine.part import BoardContext, Part
from stratovirt.memory.address_space import AddressSpace
from stratovirt.memory.ram import Ram

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypeVar

    from stratovirt.boot.device_tree import DeviceTree
    from stratovirt.machine.hot_plug import HotPlug
    from stratovirt.snapshot.state import Entry
    from stratovirt.virtio.device import VirtioDevice

    AnyPart = TypeVar("AnyPart", bound=Part)


PHYSICAL_ADDRESS_BITS = 52
LARGE_KERNEL = 1 << 20
MODULES_OF_INITRD = ("stratovirt.boot.initrd", "zlib")
"""What `load` imports to check an initrd."""


class Board(ABC):
    """A board: RAM, parts and boot code of a machine; subclasses add the parts.

    `room` is where its RAM is, (gpa, size) each; `ports` is the port space of a board that has
    one.  The table of architectures names the subclasses; each is made with a `BoardContext`.
    """

    bus: str
    """The bus of its virtio devices."""
    modules_of_load: tuple[str, ...] = ()
    """Modules that `load` imports."""
    restarts_on_reset = False
    """Whether a reset by the guest reboots the machine; otherwise it ends the machine."""

    def __init__(
        self,
        context: BoardContext,
        room: list[tuple[int, int]],
        ports: AddressSpace | None = None,
    ) -> None:
        self.config = config = context.config
        self.inventory = context.inventory
        self.cpus = context.cpus
        self.accelerator = accelerator = context.accelerator
        self.host = host = context.host
        self.closing = context.closing
        self.ram = room
        self.parts: list[Part] = []
        """In the order of their reset and of their places in the tables."""
        self.memory_space = AddressSpace("memory", 1 << PHYSICAL_ADDRESS_BITS)
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
        accelerator.connect(self.guest_memory, self.memory_space, ports)
        ram = Ram(config, context.template)
        self.ram_mapping, self.allocations = ram.mapping, ram.allocations
        self.ram_pieces = ram.place(self.guest_memory, self.memory_space, room)
        if context.serial is not None:
            # Output that the client has not read yet, once the devices are closed.
            self.closing.callback(context.serial.drain)

    def add(self, part: AnyPart, within: Part | None = None) -> AnyPart:
        """Add a part, whose AML is within that of another part if one is given."""
        self.parts.append(part)
        if within is not None:
            within.children.append(part)
        return part

    @property
    @abstractmethod
    def devices(self) -> list[VirtioDevice]:
        """All virtio devices."""

    @abstractmethod
    def load(self) -> object | None:
        """Load kernel or firmware; returns the first vCPU's entry, None for its reset vector.

        The entry has the type that the accelerator's `set_entry` takes.
        """

    def reset(self) -> object | None:
        """Reset all parts to power-on state and call `load`; vCPUs must be paused."""
        for part in self.parts:
            part.reset()
        return self.load()

    def states(self) -> Iterable[Entry]:
        """The parts with their paths in the tree of states, in the order of their restore."""
        return [entry for part in self.parts for entry in part.states()]

    @property
    def obstacle(self) -> str | None:
        """Why the paused machine cannot be saved, in a sentence; None when its parts decide."""
        added = next((device for device in self.inventory.devices if device.is_added), None)
        if added is not None:
            return f"{added.key}: it was added while the machine ran; remove it first (device_del)"
        return None

    def restored(self) -> None:
        """Tell the guest that it is a clone, once all states are restored."""
        for part in self.parts:
            part.restored()

    @abstractmethod
    def press_power_button(self) -> None:
        """Signal a power-off request to the guest."""

    def dsdt(self, sleep_type: int) -> bytes:
        """The parts' AML as a table; `sleep_type` is the value that enters S5."""
        inner = {child for part in self.parts for child in part.children}
        terms = [term for part in self.parts if part not in inner for term in part.aml()]
        body = aml.scope("\\_SB_", *terms).code
        body += aml.name("\\_S5_", aml.package(sleep_type, 0, 0, 0)).code
        return tables.table(b"DSDT", 6, body)

    def device_tree(self, tree: DeviceTree) -> None:
        """Add the nodes of all parts to the tree."""
        for part in self.parts:
            part.device_tree(tree)

    @property
    def late_modules(self) -> tuple[str, ...]:
        """Modules that are imported while the machine runs; a locked-down one loads them before."""
        of_initrd = MODULES_OF_INITRD if self.initrd is not None else ()
        of_parts = (name for part in self.parts for name in part.late_modules)
        return (*self.modules_of_load, *of_initrd, *of_parts)

    @property
    def has_large_kernel(self) -> bool:
        """Whether the kernel may be a distribution's (by its size), not a small payload."""
        return self.kernel is not None and self.kernel.size >= LARGE_KERNEL
