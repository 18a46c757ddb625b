"""The accelerator contract: all a board and its devices know of what runs the vCPUs."""

from __future__ import annotations

from stratovirt.errors import StratovirtError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from stratovirt._native.guest_memory import GuestMemory
    from stratovirt.config.machine import Smp
    from stratovirt.memory.address_space import AddressSpace
    from stratovirt.runtime.clock import Clock

    class Accelerator(Protocol):
        """Memory, interrupts and doorbells of one machine."""

        @property
        def clock(self) -> Clock:
            """What devices read the time from and set timers on."""

        @property
        def physical_address_bits(self) -> int:
            """How wide the guest's physical addresses are."""

        def connect(
            self, guest_memory: GuestMemory, memory: AddressSpace, ports: AddressSpace
        ) -> None:
            """Follow the machine's address spaces from now on."""

        def set_irq_level(self, gsi: int, level: bool) -> None:
            """Drive a GSI's line."""

        def irqfd(self, gsi: int) -> int:
            """A new eventfd whose writes pulse the GSI."""

        def attach_irqfd(self, fd: int, gsi: int) -> None:
            """Let writes to eventfd `fd` pulse the GSI; what was written before counts."""

        def detach_irqfd(self, fd: int, gsi: int) -> None:
            """Undo `attach_irqfd`; what is written from now on stays in the eventfd."""

        def attach_line(self, fd: int, gsi: int, resample_fd: int) -> None:
            """Let writes to `fd` raise a level-triggered GSI; `resample_fd` hears that it fell."""

        def detach_line(self, fd: int, gsi: int, resample_fd: int) -> None:
            """Undo `attach_line`."""

        def set_vfio_group(self, group_fd: int, *, added: bool) -> None:
            """A VFIO group came to the machine, or goes; raises OSError."""

        def add_msi_route(self, address: int, data: int) -> int:
            """A new GSI that sends the message; raises AccelError when there are no more."""

        def change_msi_route(self, gsi: int, address: int, data: int) -> None:
            """Let the GSI of `add_msi_route` send another message; raises AccelError."""

        def remove_msi_route(self, gsi: int) -> None:
            """Undo `add_msi_route`; nothing is attached any more."""

        def add_doorbell(self, fd: int, address: int, size: int, value: int | None) -> None:
            """Let guest writes of `value` to a memory address signal eventfd `fd`."""

        def remove_doorbell(self, fd: int, address: int, size: int, value: int | None) -> None:
            """Undo `add_doorbell`."""

        def let_others_in(self) -> None:
            """Within a long access of the guest: whoever waits for the VM's lock has it first."""

        @property
        def runs_vcpus(self) -> bool:
            """Whether there are vCPUs, with a state that snapshots and resets have to know."""

        def create_interrupt_controllers(self) -> None:
            """What GSIs lead to; before anything drives one. Raises AccelError."""

        def create_vcpus(self, smp: Smp, name: str) -> None:
            """The vCPUs as after power-on, their threads called `name` with the number for {}.

            Raises AccelError.
            """

        def set_entry(self, entry: Any) -> None:
            """Let the first vCPU start where the architecture's boot protocol says.

            Raises AccelError.
            """

        def check_host(self) -> None:
            """Warn of a host that cannot run stock kernels and firmware."""

        def vcpu_thread_ids(self) -> list[int]:
            """The host thread of each vCPU, 0 while it has not run."""

        def reset(self, smp: Smp) -> None:
            """Paused vCPUs and interrupt controllers as after power-on; raises AccelError."""

        def save(self, smp: Smp) -> dict[str, object] | None:
            """The state of paused vCPUs, interrupt controllers and clocks; raises SnapshotError."""

        def restore(self, state: dict[str, object] | None) -> None:
            """Give it to a machine whose vCPUs were just created; raises SnapshotError."""

        def pause(self) -> None:
            """Stop every vCPU; returns when none runs guest code."""

        def resume(self) -> None:
            """Let the vCPUs run."""

        def stop(self) -> None:
            """Stop every vCPU for good; returns when their threads are gone."""


class AccelError(StratovirtError):
    """The accelerator is missing or cannot do what the machine needs."""
