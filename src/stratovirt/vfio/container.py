"""The IOMMU context of a machine's VFIO devices: groups, and DMA maps that follow guest RAM."""

from __future__ import annotations

import errno

from stratovirt._native.vfio import Container, Device, Group
from stratovirt.memory.address_space import AddressSpace, DeviceRegion, FlatRange, RamRegion
from stratovirt.runtime.log import Log
from stratovirt.vfio.host import VfioError, VfioFiles, VfioRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt._native.guest_memory import GuestMemory
    from stratovirt.accel.base import Accelerator
    from stratovirt.host.access import HostAccess

log = Log(__name__)


class DmaListener:
    """Keeps the IOMMU's DMA maps equal to the RAM of the address space.

    As a Writer of guest memory it stands for all functions of the container.
    """

    def __init__(self, container: Container) -> None:
        self._container = container

    def changed(
        self, removed: list[FlatRange], added: list[FlatRange], _view: list[FlatRange]
    ) -> None:
        """Unmap removed RAM ranges, then map added ones."""
        for piece in removed:
            if _is_ram(piece):
                self._container.unmap_dma(piece.start, piece.size)
        for piece in added:
            if _is_ram(piece):
                region = piece.region
                assert isinstance(region, RamRegion)
                vaddr = region.mapping.address + region.offset + piece.offset
                self._container.map_dma(piece.start, piece.size, vaddr)

    log_obstacle = "the host's functions (VFIO) write memory that no log is kept of"

    def start_log(self) -> None:
        """Does nothing: see `log_obstacle`."""

    def collect_log(self) -> None:
        """Does nothing: see `log_obstacle`."""

    def stop_log(self) -> None:
        """Does nothing: see `log_obstacle`."""


def _is_ram(piece: FlatRange) -> bool:
    region = piece.region
    return (
        isinstance(region, RamRegion)
        and not isinstance(region, DeviceRegion)
        and not region.readonly
    )


class VfioContainer:
    """The VFIO container of a machine and its groups; opened with the first device."""

    def __init__(
        self,
        guest_memory: GuestMemory,
        memory: AddressSpace,
        accelerator: Accelerator,
        access: HostAccess,
    ) -> None:
        self._guest_memory, self._memory = guest_memory, memory
        self._accelerator = accelerator
        self._access = access
        self._container: Container | None = None
        self._listener: DmaListener | None = None
        self._groups: dict[str, tuple[Group, int]] = {}
        """Open groups by number, and how many devices use each."""

    def open_device(self, host: str, source: str) -> tuple[Device, str]:
        """Open the function at `host`; returns it and its group. Raises VfioError."""
        try:
            has_container = self._container is not None
            opened = self._access.open(
                VfioRequest(
                    host=host,
                    source=source,
                    known=tuple(self._groups),
                    has_container=has_container,
                )
            )
            group = self._join(opened, source)
            try:
                return Device(group.open_device(host)), opened.number
            except OSError:
                self.leave(opened.number)
                raise
        except OSError as error:
            raise VfioError(f"{source}: cannot open it: {_reason(error)}") from error

    def _join(self, opened: VfioFiles, source: str) -> Group:
        number = opened.number
        if number in self._groups:
            known, users = self._groups[number]
            self._groups[number] = known, users + 1
            return known
        group = Group(opened.group_fd)
        is_first = self._container is None
        container = self._container or Container(opened.container_fd)
        try:
            problem = container.check() if is_first else None
            if problem is not None:
                raise VfioError(f"{source}: {problem}")
            self._add_group(group, container, is_first, f"{source}: IOMMU group {number}")
        except Exception:
            if is_first and self._listener is not None:
                self._forget_listener(self._listener)
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
            self._guest_memory.add_writer(listener)
            self._listener = listener
        self._accelerator.set_vfio_group(group.fd, added=True)

    def _forget_listener(self, listener: DmaListener) -> None:
        self._memory.forget(listener)
        self._guest_memory.remove_writer(listener)
        self._listener = None

    def leave(self, number: str) -> None:
        """A device of the group was closed; the last one closes the group."""
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
        self._forget_listener(self._listener)
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
