"""Interrupts of a passed-through function: from the device's eventfds to KVM's irqfds."""

from __future__ import annotations

import os

from stratovirt._native import vfio
from stratovirt._native.vfio import Device
from stratovirt.accel.base import AccelError
from stratovirt.pci import config_space as regs
from stratovirt.runtime.eventfds import new_eventfd
from stratovirt.runtime.log import Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.accel.base import Accelerator
    from stratovirt.pci.function import PciFunction
    from stratovirt.pci.msix import Msix

log = Log(__name__)

MSI_CONTROL, MSI_ADDRESS = 2, 4
MSI_ENABLE, MSI_64_BIT, MSI_PER_VECTOR_MASK = 1 << 0, 1 << 7, 1 << 8
MSI_CAPABLE_SHIFT, MSI_ENABLED_SHIFT = 1, 4


class MsixEvents:
    """A device's MSI-X vectors, each with an eventfd attached to the emulated table."""

    def __init__(self, device: Device, msix: Msix) -> None:
        self._device, self._msix = device, msix
        self._fds: list[int] = []

    def update(self) -> None:
        """Enable or disable the device's MSI-X as the guest has it."""
        if self._msix.is_enabled and not self._fds:
            self._fds = [new_eventfd() for _ in self._msix.vectors]
            for number, fd in enumerate(self._fds):
                self._msix.attach(fd, number)
            _set_irqs(self._device, vfio.MSIX, self._fds)
        elif not self._msix.is_enabled:
            self.close()

    def close(self) -> None:
        """Disable the vectors and close their eventfds."""
        if self._fds:
            _set_irqs(self._device, vfio.MSIX, [])
        for fd in self._fds:
            self._msix.detach(fd)
            os.close(fd)
        self._fds = []


class MsiEvents:
    """A device's MSI (PCI Express Base 4.0, section 7.7.1): consecutive messages."""

    def __init__(
        self, device: Device, function: PciFunction, accelerator: Accelerator, capability: int
    ) -> None:
        self._device, self._function = device, function
        self._accelerator, self._capability = accelerator, capability
        self._routes: list[tuple[int, int]] = []
        """(eventfd, GSI) of each vector."""
        self._message: tuple[int, int, int, int] | None = None

    @property
    def is_enabled(self) -> bool:
        """Whether the guest has enabled MSI."""
        return bool(self._function.config.get(self._capability + MSI_CONTROL, 2) & MSI_ENABLE)

    def _wanted(self) -> tuple[int, int, int, int] | None:
        """(address, data, requester, count) of the guest's MSI setup; None while it is disabled."""
        if not self.is_enabled:
            return None
        config, at = self._function.config, self._capability
        control = config.get(at + MSI_CONTROL, 2)
        wide = bool(control & MSI_64_BIT)
        address = config.get(at + MSI_ADDRESS, 8 if wide else 4)
        data = config.get(at + MSI_ADDRESS + (8 if wide else 4), 2)
        most = control >> MSI_CAPABLE_SHIFT & 7
        count = 1 << min(control >> MSI_ENABLED_SHIFT & 7, most)
        return address, data, self._function.requester, count

    def update(self) -> None:
        """Set up the MSI routes again if the capability has changed."""
        wanted = self._wanted()
        if wanted == self._message:
            return
        self.close()
        self._message = wanted
        if wanted is None:
            return
        address, data, requester, count = wanted
        try:
            for number in range(count):
                self._routes.append(self._connect(address, data | number, requester))
        except (AccelError, OSError) as error:
            log.warn(f"{self._function.name}: {error}")
        _set_irqs(self._device, vfio.MSI, [fd for fd, _ in self._routes])

    def _connect(self, address: int, data: int, requester: int) -> tuple[int, int]:
        """A new eventfd and the GSI that it pulses; raises AccelError and OSError."""
        gsi = self._accelerator.add_msi_route(address, data, requester)
        try:
            fd = new_eventfd()
            try:
                self._accelerator.attach_irqfd(fd, gsi)
            except OSError:
                os.close(fd)
                raise
        except OSError:
            self._accelerator.remove_msi_route(gsi)
            raise
        return fd, gsi

    def requester_changed(self) -> None:
        """Messages carry another requester id from now on; none is lost meanwhile."""
        if self._message is None:
            return
        address, data, _, count = self._message
        requester = self._function.requester
        self._message = address, data, requester, count
        try:
            for number, (_, gsi) in enumerate(self._routes):
                self._accelerator.change_msi_route(gsi, address, data | number, requester)
        except AccelError as error:
            log.warn(f"{self._function.name}: {error}")

    def close(self) -> None:
        """Disable the vectors and close their eventfds."""
        if self._routes:
            _set_irqs(self._device, vfio.MSI, [])
        for fd, gsi in self._routes:
            self._accelerator.detach_irqfd(fd, gsi)
            self._accelerator.remove_msi_route(gsi)
            os.close(fd)
        self._routes = []
        self._message = None


class PinEvents:
    """A device's interrupt pin: KVM drives the line, a resample eventfd unmasks the device."""

    def __init__(self, device: Device, function: PciFunction, accelerator: Accelerator) -> None:
        self._device, self._function, self._accelerator = device, function, accelerator
        self._attached: tuple[int, int, int] | None = None

    def update(self, *, is_wanted: bool) -> None:
        """Connect the pin if it `is_wanted` and INTx is not disabled; else disconnect it."""
        config, bus = self._function.config, self._function.bus
        pin = config.get(regs.INTERRUPT_PIN, 1)
        disabled = config.get(regs.COMMAND, 2) & regs.COMMAND_INTX_DISABLE
        is_wanted = is_wanted and bool(pin) and not disabled and bus is not None
        if is_wanted == (self._attached is not None):
            return
        if not is_wanted:
            self.close()
            return
        assert bus is not None
        fd, resample_fd = new_eventfd(), new_eventfd()
        gsi = bus.gsi(self._function.devfn, pin)
        self._attached = fd, gsi, resample_fd
        self._accelerator.attach_line(fd, gsi, resample_fd)
        _set_irqs(self._device, vfio.INTX, [fd])
        try:
            self._device.set_unmask(vfio.INTX, resample_fd)
        except OSError as error:
            log.warn(f"{self._function.name}: {error.strerror}")

    def close(self) -> None:
        """Disable the pin's interrupt."""
        if self._attached is None:
            return
        fd, gsi, resample_fd = self._attached
        self._attached = None
        _set_irqs(self._device, vfio.INTX, [])
        self._accelerator.detach_line(fd, gsi, resample_fd)
        os.close(fd)
        os.close(resample_fd)


def _set_irqs(device: Device, kind: int, fds: list[int]) -> None:
    try:
        device.set_irqs(kind, fds)
    except OSError as error:
        # A device that vanished has no interrupts left to switch off.
        log.warn(f"VFIO interrupts: {error.strerror}")
