"""The IOMMU context of a machine's VFIO devices: groups, and DMA maps that follow guest RAM."""

from __future__ import annotations

import errno
import os

from stratovirt._native.vfio import Container, Device, Group
from stratovirt.errors import StratovirtError
from stratovirt.memory.address_space import AddressSpace, DeviceRegion, FlatRange, RamRegion
from stratovirt.runtime.log import Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.accel.base import Accelerator

log = Log(__name__)

CONTAINER = "/dev/vfio/vfio"
DEVICES = "/sys/bus/pci/devices"


class VfioError(StratovirtError):
    """A host device cannot be passed through; the text names the option."""


class DmaListener:
    """Keeps the IOMMU's maps equal to the RAM in the map."""

    def __init__(self, container: Container) -> None:
        self._container = container

    def changed(
        self, removed: list[FlatRange], added: list[FlatRange], _view: list[FlatRange]
    ) -> None:
        """Unmap what went before mapping what came."""
        for piece in removed:
            if _is_ram(piece):
                self._container.unmap_dma(piece.start, piece.size)
        for piece in added:
            if _is_ram(piece):
                region = piece.region
                assert isinstance(region, RamRegion)
                vaddr = region.mapping.address + region.offset + piece.offset
                self._container.map_dma(piece.start, piece.size, vaddr)


def _is_ram(piece: FlatRange) -> bool:
    region = piece.region
    return (
        isinstance(region, RamRegion)
        and not isinstance(region, DeviceRegion)
        and not region.readonly
    )


class VfioContainer:
    """All groups of a machine; opened with the first device."""

    def __init__(self, memory: AddressSpace, accelerator: Accelerator) -> None:
        self._memory = memory
        self._accelerator = accelerator
        self._container: Container | None = None
        self._listener: DmaListener | None = None
        self._groups: dict[str, tuple[Group, int]] = {}
        """Open groups by number, and how many devices use each."""

    def open_device(self, host: str, source: str) -> tuple[Device, str]:
        """Open the function at `host`; returns it and its group. Raises VfioError."""
        number = self._group_of(host, source)
        try:
            group = self._join(number, source)
            try:
                return Device(group.open_device(host)), number
            except OSError:
                self.leave(number)
                raise
        except OSError as error:
            raise VfioError(f"{source}: cannot open it: {_reason(error)}") from error

    def _group_of(self, host: str, source: str) -> str:
        if not os.path.exists(f"{DEVICES}/{host}"):
            raise VfioError(f"{source}: this host has no such PCI function")
        try:
            number = os.path.basename(os.readlink(f"{DEVICES}/{host}/iommu_group"))
        except OSError as error:
            raise VfioError(f"{source}: no IOMMU is in front of it; switch it on") from error
        driver = os.path.realpath(f"{DEVICES}/{host}/driver").rpartition("/")[2]
        if driver != "vfio-pci":
            found = driver if driver != "driver" else "no driver"
            raise VfioError(f"{source}: it is bound to {found}; bind it to vfio-pci")
        return number

    def _join(self, number: str, source: str) -> Group:
        if number in self._groups:
            known, users = self._groups[number]
            self._groups[number] = known, users + 1
            return known
        container, is_first = self._open_container(source)
        group = None
        try:
            group = Group(os.open(f"/dev/vfio/{number}", os.O_RDWR | os.O_CLOEXEC))
            self._add_group(group, container, is_first, f"{source}: IOMMU group {number}")
        except Exception:
            if is_first and self._listener is not None:
                self._memory.forget(self._listener)
                self._listener = None
            if group is not None:
                group.close()
            if is_first:
                container.close()
            raise
        self._container = container
        self._groups[number] = group, 1
        return group

    def _add_group(self, group: Group, container: Container, is_first: bool, source: str) -> None:
        if not group.is_viable:
            raise VfioError(
                f"{source} has devices that are bound to host drivers; bind all to vfio-pci"
            )
        group.join(container)
        if is_first:
            container.use_type1()
            listener = DmaListener(container)
            self._memory.listen(listener)
            self._listener = listener
        self._accelerator.set_vfio_group(group.fd, added=True)

    def _open_container(self, source: str) -> tuple[Container, bool]:
        if self._container is not None:
            return self._container, False
        container = Container(os.open(CONTAINER, os.O_RDWR | os.O_CLOEXEC))
        problem = container.check()
        if problem is not None:
            container.close()
            raise VfioError(f"{source}: {problem}")
        return container, True

    def leave(self, number: str) -> None:
        """A device of this group is closed; the last one gives the group back."""
        group, users = self._groups[number]
        if users > 1:
            self._groups[number] = group, users - 1
            return
        del self._groups[number]
        try:
            self._accelerator.set_vfio_group(group.fd, added=False)
        except OSError as error:
            log.warn(f"VFIO group {number}: {error.strerror}")
        if self._groups:
            group.close()
            return
        # With its last group a container loses its maps; the next device begins anew.
        assert self._listener is not None
        self._memory.forget(self._listener)
        self._listener = None
        group.close()
        if self._container is not None:
            self._container.close()
            self._container = None


def _reason(error: OSError) -> str:
    hints = {
        errno.ENOENT: "; load the module vfio_pci",
        errno.EBUSY: "; somebody else uses its group",
        errno.ENOMEM: "; guest memory is pinned: raise the limit of locked memory (ulimit -l)",
        errno.EPERM: "; without interrupt remapping it takes vfio_iommu_type1's "
        "allow_unsafe_interrupts",
        errno.EACCES: "; the user may not open /dev/vfio",
    }
    return f"{error.strerror}{hints.get(error.errno or 0, '')}"
