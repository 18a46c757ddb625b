"""Finds the IOMMU group of a host's PCI function and opens its VFIO files."""

from __future__ import annotations

import os

from stratovirt.errors import StratovirtError

CONTAINER = "/dev/vfio/vfio"
DEVICES = "/sys/bus/pci/devices"


class VfioError(StratovirtError):
    """A host device cannot be passed through; the text names the option."""


class VfioFiles:
    """IOMMU group number of a function; new descriptors of group and container, or -1."""

    __slots__ = ("container_fd", "group_fd", "number")

    def __init__(self, number: str, *, group_fd: int = -1, container_fd: int = -1) -> None:
        self.number, self.group_fd, self.container_fd = number, group_fd, container_fd


def open_vfio(host: str, source: str, *, known: list[str], has_container: bool) -> VfioFiles:
    """Open the group of the function at `host`, unless `known` has it, and a container.

    Raises VfioError or OSError.
    """
    number = _group_of(host, source)
    if number in known:
        return VfioFiles(number)
    container = -1 if has_container else os.open(CONTAINER, os.O_RDWR | os.O_CLOEXEC)
    try:
        group = os.open(f"/dev/vfio/{number}", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        if container >= 0:
            os.close(container)
        raise
    return VfioFiles(number, group_fd=group, container_fd=container)


def _group_of(host: str, source: str) -> str:
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
