"""What the boards of x86_64 share: RAM, address spaces, the serial port, tables of NUMA nodes."""

from __future__ import annotations

from abc import ABC, abstractmethod

from stratovirt.acpi import aml
from stratovirt.boot.image import BootFile, KernelFile
from stratovirt.config.errors import ConfigError
from stratovirt.config.vm_config import VmConfig
from stratovirt.cpu.x86_64_topology import apic_ids
from stratovirt.devices.uart16550 import REGISTERS as UART_REGISTERS
from stratovirt.devices.uart16550 import Uart16550
from stratovirt.memory.address_space import AddressSpace, IoRegion
from stratovirt.memory.ram import Ram

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from stratovirt.accel.base import Accelerator
    from stratovirt.chardev.backend import Chardev
    from stratovirt.config.devices import Virtconsole
    from stratovirt.cpu.x86_64_boot import EntryPoint
    from stratovirt.devices.device_host import DeviceHost
    from stratovirt.machine.hot_plug import HotPlug
    from stratovirt.memory.address_space import Handler
    from stratovirt.memory.ram import RamTemplate
    from stratovirt.snapshot.state import State
    from stratovirt.virtio.device import VirtioDevice

PHYSICAL_ADDRESS_BITS = 52
PORT_SPACE = 1 << 16
UART_PORT, UART_GSI = 0x3F8, 4
CONSOLE = 3
"""Device id of a virtio console (virtio 1.2, section 5)."""
NOTIFY_BUTTON_PRESSED = 0x80
"""ACPI 6.5, table 5.136: the code of a control-method power button."""

LARGE_KERNEL = 1 << 20


class Board(ABC):
    """What the machine's life knows of a board."""

    target = "x86_64"
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
        self.apic_ids = apic_ids(config.smp)
        accelerator.connect(self.guest_memory, self.memory_space, self.port_space)
        ram = Ram(config, template)
        self.ram_mapping, self.allocations = ram.mapping, ram.allocations
        self.ram_pieces = ram.place(self.guest_memory, self.memory_space, room)
        self.uart: Uart16550 | None = None
        if serial is not None:
            self.uart = Uart16550(serial, self._uart_irq)
            self.add_ports("uart", UART_PORT, UART_REGISTERS, self.uart)

    @property
    @abstractmethod
    def devices(self) -> list[VirtioDevice]:
        """All virtio devices."""

    @abstractmethod
    def load(self) -> EntryPoint | None:
        """Load what is booted; where the first vCPU starts, None for its reset vector."""

    @abstractmethod
    def reset(self) -> EntryPoint | None:
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

    def _uart_irq(self, level: bool) -> None:
        self.accelerator.set_irq_level(UART_GSI, level)

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

    @property
    def ioapic_id(self) -> int:
        """An APIC id that no vCPU has."""
        return min(max(self.apic_ids) + 1, 0xFE)

    def uart_aml(self) -> list[aml.Term]:
        """The serial port's device, where there is one."""
        if self.serial is None:
            return []
        return [
            aml.device(
                "COM1",
                aml.name("_HID", aml.Term(aml.encode(aml.eisa_id("PNP0501")))),
                aml.name("_UID", 0),
                aml.name("_STA", 0xF),
                aml.name(
                    "_CRS",
                    aml.resources(aml.io_ports(UART_PORT, UART_REGISTERS), aml.interrupt(UART_GSI)),
                ),
            )
        ]

    def numa_tables(self) -> list[bytes]:
        """SRAT and SLIT of a machine with nodes."""
        config = self.config
        if not config.numa_nodes:
            return []
        from stratovirt.acpi import numa
        from stratovirt.config.numa_check import node_ids

        numbers = node_ids(config)
        node_of = {
            cpu: number
            for number, node in zip(numbers, config.numa_nodes, strict=True)
            for cpu in node.cpus
        }
        return [
            numa.srat(
                [(apic_id, node_of[index]) for index, apic_id in enumerate(self.apic_ids)],
                [(piece.gpa, piece.size, piece.node) for piece in self.ram_pieces],
            ),
            numa.slit(len(numbers), {(d.src, d.dst): d.val for d in config.numa_distances}),
        ]
