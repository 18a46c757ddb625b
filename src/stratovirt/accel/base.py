"""The accelerator contract: the interface by which boards and devices use a hypervisor."""

from __future__ import annotations

from stratovirt.errors import StratovirtError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Protocol

    from stratovirt._native.guest_memory import GuestMemory
    from stratovirt._native.writer import Writer
    from stratovirt.cpu.slots import CpuSlots
    from stratovirt.memory.address_space import AddressSpace
    from stratovirt.runtime.clock import Clock
    from stratovirt.snapshot.state import Entry

    class Accelerator(Writer, Protocol):
        """Memory, interrupts, doorbells (ioeventfds) and vCPUs of one machine.

        As a Writer of guest memory it logs the pages that the vCPUs write.
        """

        @property
        def clock(self) -> Clock:
            """The clock that devices read and set timers on."""

        @property
        def physical_address_bits(self) -> int:
            """Width of a guest physical address, in bits."""

        def connect(
            self, guest_memory: GuestMemory, memory: AddressSpace, ports: AddressSpace | None
        ) -> None:
            """Follow the machine's address spaces from now on, and be a writer of its memory."""

        def set_irq_level(self, gsi: int, level: bool) -> None:
            """Set the level of a GSI (global system interrupt)."""

        def irqfd(self, gsi: int) -> int:
            """A new eventfd whose writes pulse the GSI."""

        def attach_irqfd(self, fd: int, gsi: int) -> None:
            """Let writes to eventfd `fd` pulse the GSI, earlier unread writes too."""

        def detach_irqfd(self, fd: int, gsi: int) -> None:
            """Undo `attach_irqfd`; later writes stay in the eventfd."""

        def attach_line(self, fd: int, gsi: int, resample_fd: int) -> None:
            """Let writes to `fd` raise a level-triggered GSI; its EOI signals `resample_fd`."""

        def detach_line(self, fd: int, gsi: int, resample_fd: int) -> None:
            """Undo `attach_line`."""

        def set_vfio_group(self, group_fd: int, *, added: bool) -> None:
            """Add a VFIO group to the machine or remove it; raises OSError."""

        def add_msi_route(self, address: int, data: int) -> int:
            """Allocate a GSI that sends the MSI message; raises AccelError when none is left."""

        def change_msi_route(self, gsi: int, address: int, data: int) -> None:
            """Change the message of a GSI of `add_msi_route`; raises AccelError."""

        def remove_msi_route(self, gsi: int) -> None:
            """Undo `add_msi_route`; the caller has detached every eventfd."""

        def add_doorbell(self, fd: int, address: int, size: int, value: int | None) -> None:
            """Let guest writes of `value` to a memory address signal eventfd `fd`."""

        def remove_doorbell(self, fd: int, address: int, size: int, value: int | None) -> None:
            """Undo `add_doorbell`."""

        def let_others_in(self) -> None:
            """Yield the VM lock to a waiting thread; called within a long guest access."""

        @property
        def runs_vcpus(self) -> bool:
            """Whether there are vCPUs, whose state snapshots save and resets restore."""

        def create_interrupt_controllers(self) -> None:
            """Create the interrupt controllers, before any GSI is used; raises AccelError."""

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

        def reset(self) -> None:
            """Reset paused vCPUs and interrupt controllers to power-on state; raises AccelError."""

        def states(self) -> Iterable[Entry]:
            """Clocks, interrupt controllers and vCPUs in the tree of states, in restore order.

            The vCPUs are paused; before a restore they are newly created.
            """

        def pause(self) -> None:
            """Stop every vCPU; returns when none runs guest code."""

        def resume(self) -> None:
            """Let the vCPUs run."""

        def stop(self) -> None:
            """End every vCPU; returns when their threads have ended."""

        def close(self) -> None:
            """Close what the accelerator has opened; no part of the machine is used any more."""


class AccelError(StratovirtError):
    """The accelerator is missing or cannot do what the machine needs."""
