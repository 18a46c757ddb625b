"""Finds the IOMMU group of a host's PCI function and opens its VFIO files."""

from __future__ import annotations

import os

from stratovirt.errors import StratovirtError
from stratovirt.host.request import Opened, Request, detail

CONTAINER = "/dev/vfio/vfio"
DEVICES = "/sys/bus/pci/devices"


class VfioError(StratovirtError):
    """A host device cannot be passed through; the text names the option."""


class VfioFiles:
    """IOMMU group number of a function; new descriptors of group and container, or -1."""

    __slots__ = ("container_fd", "group_fd", "number")

    def __init__(self, number: str, group_fd: int = -1, container_fd: int = -1) -> None:
        self.number, self.group_fd, self.container_fd = number, group_fd, container_fd


class VfioRequest(Request["VfioFiles"], kind="vfio"):
    """Open the group of the host's function at `host`, unless `known` has it, and a container."""

    host: str
    source: str = detail(default="")
    known: tuple[str, ...] = detail(default=())
    has_container: bool = detail(default=False)

    def open(self, _machine: str = "self", /) -> Opened:
        """Open the group, and the container unless there is one; raises VfioError or OSError."""
        number = _group_of(self.host, self.source)
        if number in self.known:
            return Opened([], {"number": number})
        containers = [] if self.has_container else [os.open(CONTAINER, os.O_RDWR | os.O_CLOEXEC)]
        try:
            group = os.open(f"/dev/vfio/{number}", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            for container in containers:
                os.close(container)
            raise
        return Opened([group, *containers], {"number": number})

    def receive(self, opened: Opened) -> VfioFiles:
        """The group's number and the new descriptors."""
        return VfioFiles(opened.fields["number"], *opened.fds)


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
