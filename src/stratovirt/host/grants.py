"""What a locked-down machine may have opened: what its monitors' clients have named, and no more.

The broker reads the clients' commands before the machine does.  A machine that a guest has taken
over can so ask for nothing that its manager did not name.
"""

from __future__ import annotations

import json

from stratovirt.config.kinds import HostPciAddress
from stratovirt.monitor.framing import Framer, TooLong

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Grant = tuple[str, str]
    """Kind and name: ("image", "/srv/disk.img")."""

IMAGE, TAP, VHOST_NET, VFIO, UNIX, TCP, DRAFT = (
    "image", "tap", "vhost-net", "vfio", "unix", "tcp", "draft",
)  # fmt: skip
STANDING = (UNIX, TCP, VHOST_NET)
"""A connection may be made again whenever the other side comes back; a card takes several
vhost-net devices."""
MOST_GRANTS = 64
"""Of those that nobody has used the oldest go first."""
MOST_NESTED = 500


class Grants:
    """`standing` are those of the command line."""

    def __init__(self, standing: Iterable[Grant] = ()) -> None:
        self._standing = set(standing)
        self._once: list[Grant] = []

    def take(self, kind: str, name: str) -> bool:
        """Whether it may be opened now; what was named once can be opened once."""
        grant = (kind, name)
        if grant in self._standing:
            return True
        if grant not in self._once:
            return False
        self._once.remove(grant)
        return True

    def add(self, grant: Grant) -> None:
        """Let it be opened."""
        if grant[0] in STANDING:
            self._standing.add(grant)
            return
        self._once.append(grant)
        del self._once[:-MOST_GRANTS]


class Witness:
    """Reads along with what one client sends, and grants what its commands name."""

    def __init__(self, grants: Grants) -> None:
        self._grants = grants
        self._framer = Framer()

    def forget(self) -> None:
        """Another client comes."""
        self._framer = Framer()

    def read(self, received: bytes) -> None:
        """The client has sent this."""
        for frame in self._framer.feed(received):
            if not isinstance(frame, TooLong):
                self._judge(frame)

    def _judge(self, request: bytes) -> None:
        if not any(name in request for name in _NAMING):
            return
        if request.count(b"[") + request.count(b"{") > MOST_NESTED:
            return
        try:
            message = json.loads(request)
        except (ValueError, RecursionError):
            # The machine answers that; nothing is granted.
            return
        if not isinstance(message, dict):
            return
        command, arguments = message.get("execute"), message.get("arguments")
        if not isinstance(command, str) or command.encode() not in _NAMING:
            return
        if isinstance(arguments, dict):
            for kind, name in _NAMING[command.encode()](arguments):
                self._grants.add((kind, name))


def _text(arguments: object, *path: str) -> str | None:
    for key in path:
        arguments = arguments.get(key) if isinstance(arguments, dict) else None
    return arguments if isinstance(arguments, str) else None


def _image(arguments: dict[str, object]) -> list[Grant]:
    path = _text(arguments, "file", "filename")
    return [(IMAGE, path)] if path is not None else []


def _netdev(arguments: dict[str, object]) -> list[Grant]:
    name = _text(arguments, "ifname")
    return [(VHOST_NET, "")] + ([(TAP, name)] if name is not None else [])


def _chardev(arguments: dict[str, object]) -> list[Grant]:
    path = _text(arguments, "backend", "data", "addr", "data", "path")
    return [(UNIX, path)] if path is not None else []


def _device(arguments: dict[str, object]) -> list[Grant]:
    host = _text(arguments, "host")
    if host is None:
        return []
    try:
        return [(VFIO, HostPciAddress().parse(host))]
    except ValueError:
        return []


def _snapshot(arguments: dict[str, object]) -> list[Grant]:
    uri = _text(arguments, "uri")
    return [(DRAFT, uri.removeprefix("file:"))] if uri is not None else []


_NAMING: dict[bytes, Callable[[dict[str, object]], list[Grant]]] = {
    b"blockdev-add": _image,
    b"netdev_add": _netdev,
    b"chardev-add": _chardev,
    b"device_add": _device,
    b"migrate": _snapshot,
}
