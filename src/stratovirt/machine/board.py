"""What the life of a machine needs of a board, on any architecture, and what all boards have."""

from __future__ import annotations

from abc import ABC, abstractmethod

from stratovirt.boot.image import BootFile, KernelFile
from stratovirt.config.errors import ConfigError
from stratovirt.config.vm_config import VmConfig
from stratovirt.memory.address_space import AddressSpace, IoRegion
from stratovirt.memory.ram import Ram

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from stratovirt.accel.base import Accelerator
    from stratovirt.chardev.backend import Chardev
    from stratovirt.config.devices import Virtconsole
    from stratovirt.devices.device_host import DeviceHost
    from stratovirt.machine.hot_plug import HotPlug
    from stratovirt.memory.address_space import Handler
    from stratovirt.memory.ram import RamTemplate
    from stratovirt.snapshot.state import State
    from stratovirt.virtio.device import VirtioDevice

PHYSICAL_ADDRESS_BITS = 52
PORT_SPACE = 1 << 16
CONSOLE = 3
"""Device id of a virtio console (virtio 1.2, section 5)."""
LARGE_KERNEL = 1 << 20


class Board(ABC):
    """What the machine's life knows of a board."""

    console_driver: str
    """The -device that carries console ports."""
    restarts_on_reset = False
    """Whether a guest that resets the machine starts anew; otherwise the machine ends."""

    def __init__(
        self,
        config: VmConfig,
        accelerator: Accelerator,
        host: DeviceHost,
        serial: Chardev | None,
        room: list[tuple[int, int]],
        template: RamTemplate | None = None,
    ) -> None:
        self.config = config
        self.accelerator = accelerator
        self.host = host
        self.serial = serial
        self.ram = room
        self.memory_space = AddressSpace("memory", 1 << PHYSICAL_ADDRESS_BITS)
        self.port_space = AddressSpace("port", PORT_SPACE)
        self.guest_memory = host.memory
        self.hot_plug: HotPlug | None = None
        self.kernel = KernelFile(config.kernel) if config.kernel is not None else None
        self.initrd = BootFile("-initrd", config.initrd) if config.initrd is not None else None
        accelerator.connect(self.guest_memory, self.memory_space, self.port_space)
        ram = Ram(config, template)
        self.ram_mapping, self.allocations = ram.mapping, ram.allocations
        self.ram_pieces = ram.place(self.guest_memory, self.memory_space, room)

    @property
    @abstractmethod
    def devices(self) -> list[VirtioDevice]:
        """All virtio devices."""

    @abstractmethod
    def load(self) -> object | None:
        """Load what is booted; where the first vCPU starts, None for its reset vector.

        Where is as the architecture's accelerator takes it in `set_entry`.
        """

    @abstractmethod
    def reset(self) -> object | None:
        """All devices as after power-on and what is booted loaded anew; vCPUs must be paused."""

    @abstractmethod
    def save(self) -> State:
        """All devices of a machine at rest; raises SnapshotError naming what cannot be saved."""

    @abstractmethod
    def restore(self, state: Any) -> None:
        """Become as the board that was saved, at rest; raises SnapshotError."""

    @abstractmethod
    def press_power_button(self) -> None:
        """Tell the guest that somebody wants it to power off."""

    @abstractmethod
    def close(self) -> None:
        """Stop the devices and give back their files; requests in flight are completed."""

    def add_ports(self, name: str, port: int, size: int, handler: Handler) -> None:
        """Let `handler` answer I/O ports."""
        self.port_space.add(port, IoRegion(name, size, handler))

    def add_console_port(self, options: Virtconsole) -> None:
        """Give the last console device one more port; raises ConfigError."""
        consoles = [device for device in self.devices if device.device_id == CONSOLE]
        source = f"{options.flag},chardev={options.chardev}"
        if not consoles:
            raise ConfigError(f"{source}: no -device {self.console_driver} before it carries it")
        name = options.id or options.chardev
        try:
            chardev = self.host.open_chardev(options.chardev)
            consoles[-1].add_port(name, chardev, options.nr)  # type: ignore[attr-defined]
        except ValueError as error:
            raise ConfigError(f"{source}: {error}") from error

    @property
    def has_large_kernel(self) -> bool:
        """Whether a kernel of a distribution may run, and not only a small payload."""
        return self.kernel is not None and self.kernel.size >= LARGE_KERNEL
