"""The accelerator contract: the interface by which boards and devices use a hypervisor.

`Accelerator` is the machine as the hypervisor has it; it owns the vCPUs (``vcpu``) and the
interrupt controllers (``interrupt_controller``).  An architecture adds its part of all three in
files of its name.
"""

from __future__ import annotations

from stratovirt.errors import StratovirtError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, Protocol

    from stratovirt._native.guest_memory import GuestMemory
    from stratovirt._native.writer import Writer
    from stratovirt.accel.interrupt_controller import InterruptController
    from stratovirt.accel.vcpu import Vcpu, VcpuExit
    from stratovirt.cpu.slots import CpuSlots
    from stratovirt.memory.address_space import AddressSpace
    from stratovirt.runtime.clock import Clock
    from stratovirt.snapshot.state import Entry

    class Lines(Protocol):
        """Interrupt lines, messages and doorbells: what devices use of an accelerator.

        A GSI (global system interrupt) is the board's number of a line: on x86 the I/O APIC's pin
        (the PIC's for the first 16), on Arm the SPI counted from 0, whose INTID is 32 more.  The
        accelerator turns it into what the hypervisor wants in the architecture's file.  GSIs of
        messages are above those of the lines.
        """

        def set_irq_level(self, gsi: int, level: bool) -> None:
            """Set the level of a line."""

        def irqfd(self, gsi: int) -> int:
            """A new eventfd whose writes pulse the GSI."""

        def attach_irqfd(self, fd: int, gsi: int) -> None:
            """Let writes to eventfd `fd` pulse the GSI, earlier unread writes too."""

        def detach_irqfd(self, fd: int, gsi: int) -> None:
            """Undo `attach_irqfd`; later writes stay in the eventfd."""

        def attach_line(self, fd: int, gsi: int, resample_fd: int) -> None:
            """Let writes to `fd` raise a level-triggered line; its EOI signals `resample_fd`."""

        def detach_line(self, fd: int, gsi: int, resample_fd: int) -> None:
            """Undo `attach_line`."""

        def add_msi_route(self, address: int, data: int, requester: int) -> int:
            """Allocate a GSI that sends the MSI message; raises AccelError when none is left.

            `requester` is the sender's device id: for a PCI function its requester id (PCI
            Express Base 4.0, section 2.2.6.2), by which Arm's ITS translates the message.
            """

        def change_msi_route(self, gsi: int, address: int, data: int, requester: int) -> None:
            """Change the message of a GSI of `add_msi_route`; raises AccelError."""

        def remove_msi_route(self, gsi: int) -> None:
            """Undo `add_msi_route`; the caller has detached every eventfd."""

        def add_doorbell(self, fd: int, address: int, size: int, value: int | None) -> None:
            """Let guest writes of `value` to a memory address signal eventfd `fd`."""

        def remove_doorbell(self, fd: int, address: int, size: int, value: int | None) -> None:
            """Undo `add_doorbell`."""

    class Accelerator(Lines, Writer, Protocol):
        """One machine: memory, interrupts, doorbells, clock and vCPUs.

        As a Writer of guest memory it logs the pages that the vCPUs write.
        """

        exited: Callable[[VcpuExit], None]
        """Called in the loop with the exit that ends a vCPU's run, unless it was KICKED."""

        @property
        def clock(self) -> Clock:
            """The clock that devices read and set timers on."""

        @property
        def physical_address_bits(self) -> int:
            """Width of a guest physical address, in bits."""

        @property
        def interrupt_controller(self) -> InterruptController:
            """The interrupt controllers, for `create` before the board is built."""

        @property
        def vcpus(self) -> Sequence[Vcpu]:
            """The vCPUs in the order of their slots; none where a client plays them."""

        def connect(
            self, guest_memory: GuestMemory, memory: AddressSpace, ports: AddressSpace | None
        ) -> None:
            """Follow the machine's address spaces from now on, and be a writer of its memory."""

        def set_vfio_group(self, group_fd: int, *, added: bool) -> None:
            """Add a VFIO group to the machine or remove it; raises OSError."""

        def let_others_in(self) -> None:
            """Yield the VM lock to a waiting thread; called within a long guest access."""

        def create_vcpus(self, slots: CpuSlots, name: str) -> None:
            """Create the vCPUs of `slots` in power-on state, and put them there if they run.

            A thread's name is `name` with the index of its vCPU for {}.

            Raises AccelError.
            """

        def set_entry(self, entry: Any) -> None:
            """Set the first vCPU's registers for the boot protocol of the architecture.

            Raises AccelError.
            """

        def check_host(self) -> None:
            """Warn of a host that cannot run stock kernels and firmware."""

        def states(self) -> Iterable[Entry]:
            """Clock, interrupt controllers and vCPUs in the tree of states, in restore order.

            The vCPUs are paused; before a restore they are newly created.
            """

        def reset(self) -> None:
            """Reset paused vCPUs and interrupt controllers to power-on state; raises AccelError."""

        def start(self) -> None:
            """The process is ready to run the machine; called once, before the first `resume`."""

        def pause(self) -> None:
            """Stop every vCPU; returns when none runs guest code."""

        def resume(self) -> None:
            """Let the vCPUs run."""

        def stop(self) -> None:
            """End every vCPU; returns when their threads have ended."""

        def close(self) -> None:
            """Close what the accelerator has opened; no part of the machine is used any more.

            Later calls change nothing.
            """


class AccelError(StratovirtError):
    """The accelerator is missing or cannot do what the machine needs."""
