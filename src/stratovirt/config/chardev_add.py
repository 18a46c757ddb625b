"""The arguments of chardev-add, nested as QEMU has them."""

from __future__ import annotations

from stratovirt.config.chardev import RECONNECT_LONGEST_S, SocketChardev
from stratovirt.config.hotplug import IdArguments
from stratovirt.config.kinds import (
    SOCKET_PATH_LONGEST,
    Choice,
    Identifier,
    Integer,
    Only,
    OnOff,
    PathName,
)
from stratovirt.config.options import Nested, Options, opt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.host.request import Named


class UnixAddressData(Options, flag="chardev-add backend.data.addr.data"):
    """A UNIX socket's address."""

    path: str = opt(PathName(SOCKET_PATH_LONGEST), help="path of the UNIX socket")


class Address(Options, flag="chardev-add backend.data.addr"):
    """The address of the peer's listening socket."""

    type: str = opt(Choice("unix"), help="kind of socket")
    data: UnixAddressData = opt(Nested(UnixAddressData), help="the address")


class SocketData(Options, flag="chardev-add backend.data"):
    """A connection to a vhost-user back end."""

    addr: Address = opt(Nested(Address), help="where the other side listens")
    server: bool = opt(OnOff(), default=True, help="must be off: the back end is the server")
    wait: bool = opt(Only(False), default=False, help="for servers; must be off")
    reconnect: int = opt(
        Integer(0, RECONNECT_LONGEST_S),
        default=0,
        help="seconds after which to connect anew; 0 never",
    )

    def check(self) -> None:
        """Refuse a server: only a client can be added to a running machine."""
        if self.server:
            raise ValueError("server must be false: a vhost-user back end listens itself")


class Backend(Options, flag="chardev-add backend"):
    """The kind of chardev."""

    type: str = opt(Choice("socket"), help="kind of chardev")
    data: SocketData = opt(Nested(SocketData), help="the socket")


class ChardevAdd(Options, flag="chardev-add"):
    """A socket for a later netdev_add of type vhost-user, which connects it."""

    id: str = opt(Identifier(), help="name that the netdev refers to")
    backend: Backend = opt(Nested(Backend), help="what it is")

    @property
    def chardev(self) -> SocketChardev:
        """The chardev as -chardev would define it."""
        data = self.backend.data
        return SocketChardev(id=self.id, path=data.addr.data.path, reconnect=data.reconnect)

    def names(self) -> Named:
        """The socket, which a back end may connect to until the chardev is removed."""
        from stratovirt.host.request import Named

        return Named(added=(self.id, self.chardev.connection()))


class ChardevRemove(IdArguments):
    """Which chardev."""

    def names(self) -> Named:
        """The end of what chardev-add has named."""
        from stratovirt.host.request import Named

        return Named(removed=self.id)
