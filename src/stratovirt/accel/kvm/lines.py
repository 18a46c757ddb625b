"""Interrupt lines, messages and doorbells of a machine on KVM: irqfds, MSI routes, ioeventfds."""

from __future__ import annotations

from stratovirt._native.kvm import KvmVm
from stratovirt.accel.base import AccelError
from stratovirt.runtime.eventfds import new_eventfd

MAX_IRQ_ROUTES = 4096
"""KVM_MAX_IRQ_ROUTES of the kernel, which is in no header of its interface."""


class KvmLines:
    """The lines of any architecture: see accel.base.Lines."""

    first_msi_gsi: int
    """The first GSI above the interrupt controllers' lines."""
    vm: KvmVm

    def __init__(self) -> None:
        self._messages: dict[int, tuple[int, int, int]] = {}
        """(address, data, requester) of each MSI route by GSI."""

    def set_irq_level(self, gsi: int, level: bool) -> None:
        """Set the level of a line."""
        self.vm.set_irq_level(gsi, level)

    def irqfd(self, gsi: int) -> int:
        """A new eventfd whose writes pulse the GSI."""
        fd = new_eventfd()
        self.vm.set_irqfd(fd, gsi)
        return fd

    def attach_irqfd(self, fd: int, gsi: int) -> None:
        """Let writes to eventfd `fd` pulse the GSI, earlier unread writes too."""
        self.vm.set_irqfd(fd, gsi)

    def detach_irqfd(self, fd: int, gsi: int) -> None:
        """Undo `attach_irqfd`; later writes stay in the eventfd."""
        self.vm.set_irqfd(fd, gsi, assign=False)

    def attach_line(self, fd: int, gsi: int, resample_fd: int) -> None:
        """Let writes to `fd` raise a level-triggered line; its EOI signals `resample_fd`."""
        self.vm.set_irqfd(fd, gsi, resample_fd=resample_fd)

    def detach_line(self, fd: int, gsi: int, resample_fd: int) -> None:
        """Undo `attach_line`."""
        self.vm.set_irqfd(fd, gsi, assign=False, resample_fd=resample_fd)

    def add_msi_route(self, address: int, data: int, requester: int) -> int:
        """Allocate a GSI that sends the MSI message; raises AccelError when none is left."""
        gsis = range(self.first_msi_gsi, MAX_IRQ_ROUTES)
        gsi = next((gsi for gsi in gsis if gsi not in self._messages), None)
        if gsi is None:
            raise AccelError(f"all {len(gsis)} message-signalled interrupts are in use")
        self.change_msi_route(gsi, address, data, requester)
        return gsi

    def change_msi_route(self, gsi: int, address: int, data: int, requester: int) -> None:
        """Change the message of a GSI of `add_msi_route`; raises AccelError."""
        before = self._messages.get(gsi)
        if before == (address, data, requester):
            return
        self._messages[gsi] = address, data, requester
        try:
            self.vm.set_msi_routes(self._messages)
        except OSError as error:
            if before is None:
                del self._messages[gsi]
            else:
                self._messages[gsi] = before
            raise AccelError(f"KVM refuses the message 0x{address:x}: {error.strerror}") from error

    def remove_msi_route(self, gsi: int) -> None:
        """Undo `add_msi_route`; the caller has detached every eventfd."""
        # The kernel keeps the unused route until the next KVM_SET_GSI_ROUTING; it has no effect.
        del self._messages[gsi]

    def add_doorbell(self, fd: int, address: int, size: int, value: int | None) -> None:
        """Let guest writes of `value` to a memory address signal eventfd `fd`."""
        self.vm.set_ioeventfd(fd, address, size, value)

    def remove_doorbell(self, fd: int, address: int, size: int, value: int | None) -> None:
        """Undo `add_doorbell`."""
        self.vm.set_ioeventfd(fd, address, size, value, assign=False)
