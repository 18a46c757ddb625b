"""The single interface by which a running machine opens host files, sockets and devices."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any, Protocol

    from stratovirt.block.image_files import ImageFiles
    from stratovirt.vfio.host import VfioFiles

    class Broker(Protocol):
        """The process that opens files for a locked-down machine: see host.line.BrokerLine."""

        def ask(self, question: str, /, **details: object) -> tuple[dict[str, Any], list[int]]:
            """The answer and its file descriptors; raises StratovirtError and OSError."""

    class Draft(Protocol):
        """A snapshot being written: see snapshot.files.Draft."""

        @property
        def memory_fd(self) -> int:
            """The file of guest RAM."""

        @property
        def state_fd(self) -> int:
            """The file of the remaining state."""

        def commit(self) -> None:
            """Move the snapshot to its final place."""

        def discard(self) -> None:
            """Remove the unfinished snapshot."""


VHOST_NET = "/dev/vhost-net"


class HostAccess:
    """Opens files, sockets and devices itself until `use`, by the broker from then on.

    Errors are the same in both cases: StratovirtError with a text for the user, or OSError.
    """

    def __init__(self) -> None:
        self._broker: Broker | None = None

    def use(self, broker: Broker) -> None:
        """Switch to the broker: from now on this process may open nothing."""
        self._broker = broker

    def open_image(self, path: str, source: str, *, readonly: bool, direct: bool) -> ImageFiles:
        """Open and lock a disk image and query its size."""
        from stratovirt.block.image_files import ImageFiles, open_image

        if self._broker is None:
            return open_image(path, source, readonly=readonly, direct=direct)
        found, fds = self._broker.ask(
            "image", path=path, source=source, readonly=readonly, direct=direct
        )
        return ImageFiles(fds, **found)

    def open_tap(self, name: str, queues: int, source: str) -> list[int]:
        """Open `queues` queues of a tap device."""
        from stratovirt.net.tap_queues import open_queues

        if self._broker is None:
            return open_queues(name, queues, source)
        return self._broker.ask("tap", name=name, queues=queues, source=source)[1]

    def open_vhost_net(self) -> int:
        """Open /dev/vhost-net."""
        if self._broker is None:
            return os.open(VHOST_NET, os.O_RDWR | os.O_CLOEXEC)
        return self._broker.ask("vhost-net")[1][0]

    def open_vfio(
        self, host: str, source: str, *, known: list[str], has_container: bool
    ) -> VfioFiles:
        """Open the VFIO group of a host PCI function."""
        from stratovirt.vfio.host import VfioFiles, open_vfio

        if self._broker is None:
            return open_vfio(host, source, known=known, has_container=has_container)
        found, fds = self._broker.ask(
            "vfio", host=host, source=source, known=known, has_container=has_container
        )
        files = VfioFiles(found["number"])
        if fds:
            files.group_fd = fds.pop(0)
        if fds:
            files.container_fd = fds.pop(0)
        return files

    def connect_unix(self, path: str) -> socket.socket:
        """Connect to a UNIX socket."""
        from stratovirt.runtime.sockets import connect_unix

        if self._broker is None:
            return connect_unix(path)
        return _socket(self._broker.ask("unix", path=path)[1][0])

    def connect_tcp(self, host: str, port: int) -> socket.socket:
        """Connect to a TCP port; blocks, so call it without the machine's lock."""
        from stratovirt.runtime.sockets import await_first, begin_tcp

        if self._broker is None:
            return await_first(begin_tcp(host, port))
        begun = self._broker.ask("tcp", host=host, port=port)[1]
        return await_first([_socket(fd) for fd in begun])

    def open_draft(self, place: str, memory_bytes: int) -> Draft:
        """Create the files of a new snapshot."""
        if self._broker is None:
            from stratovirt.snapshot.files import Draft

            return Draft(place, memory_bytes)
        memory_fd, state_fd = self._broker.ask("draft", place=place, memory_bytes=memory_bytes)[1]
        return BrokersDraft(self._broker, memory_fd, state_fd)


def _socket(fd: int) -> socket.socket:
    import socket

    # All arguments are given, or Python would query the kernel; the family is not used.
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=fd)


class BrokersDraft:
    """The files of a snapshot that the broker has created and will move to their place."""

    def __init__(self, broker: Broker, memory_fd: int, state_fd: int) -> None:
        self._broker = broker
        self.memory_fd, self.state_fd = memory_fd, state_fd

    def commit(self) -> None:
        """Move the snapshot to its final place."""
        self._broker.ask("commit")
        self._close()

    def discard(self) -> None:
        """Remove the unfinished snapshot."""
        self._broker.ask("discard")
        self._close()

    def _close(self) -> None:
        os.close(self.memory_fd)
        os.close(self.state_fd)
