"""Host ends of character devices: -chardev, and the short form in -serial."""

from __future__ import annotations

from stratovirt.config.kinds import SOCKET_PATH_LONGEST, Identifier, Integer, OnOff, PathName, Text
from stratovirt.config.options import Family, Options, opt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.runtime.sockets import TcpRequest, UnixRequest

PORT_HIGHEST = 65535
RECONNECT_LONGEST_S = 3600


class Listening(Options):
    """Options common to sockets; a server waits for its first client unless told otherwise."""

    server: bool = opt(OnOff(), default=False, help="listen instead of connecting")
    nowait: bool | None = opt(OnOff(), default=None, help="start without a client")
    wait: bool | None = opt(OnOff(), default=None, help="wait for a client first (the default)")

    def check(self) -> None:
        """``wait`` and ``nowait`` say the same thing twice, and only a server waits."""
        if self.nowait is not None and self.wait is not None:
            raise ValueError("wait and nowait contradict each other; give one")
        if not self.server and (self.nowait is not None or self.wait is not None):
            raise ValueError("wait and nowait need server")

    @property
    def waits(self) -> bool:
        """Whether the machine starts only when a client is there."""
        return self.server and not self.nowait and self.wait is not False


class StdioChardev(Options, flag="-chardev stdio"):
    """This process's streams; a terminal is put into raw mode, where Ctrl-A h lists our keys."""

    id: str = opt(Identifier(), help="name that users of the chardev refer to")


class PtyChardev(Options, flag="-chardev pty"):
    """A new pseudo terminal; its path is printed."""

    id: str = opt(Identifier(), help="name that users of the chardev refer to")


class SocketChardev(Listening, flag="-chardev socket"):
    """A UNIX or TCP socket with one peer at a time."""

    id: str = opt(Identifier(), help="name that users of the chardev refer to")
    path: str | None = opt(
        PathName(SOCKET_PATH_LONGEST), default=None, help="path of the UNIX socket"
    )
    host: str | None = opt(
        Text("a host name or address", 255), default=None, help="TCP host to listen on or reach"
    )
    port: int | None = opt(Integer(0, PORT_HIGHEST), default=None, help="TCP port; 0 takes any")
    reconnect: int = opt(
        Integer(0, RECONNECT_LONGEST_S),
        default=0,
        help="seconds after which a client connects anew; 0 never",
    )

    def check(self) -> None:
        """A socket is UNIX or TCP; only a client reconnects."""
        super().check()
        if (self.path is None) == (self.port is None and self.host is None):
            raise ValueError("give path (UNIX), or host and port (TCP)")
        if self.path is None and self.port is None:
            raise ValueError("port is missing")
        if self.reconnect and self.server:
            raise ValueError("reconnect is for a client; server waits for the next one anyway")
        if self.port == 0 and not self.server:
            raise ValueError("port 0 needs server")

    def connection(self) -> UnixRequest | TcpRequest:
        """The request by which a client connects."""
        from stratovirt.runtime.sockets import TcpRequest, UnixRequest

        if self.path is not None:
            return UnixRequest(path=self.path)
        assert self.port is not None
        return TcpRequest(host=self.host or "localhost", port=self.port)

    @property
    def address(self) -> str:
        """The address that it listens at or connects to, for messages."""
        return self.path if self.path is not None else f"{self.host or '*'}:{self.port}"


class FileChardev(Options, flag="-chardev file"):
    """A file that output is written to."""

    id: str = opt(Identifier(), help="name that users of the chardev refer to")
    path: str = opt(PathName(), help="the file; created, or emptied when it exists")
    append: bool = opt(OnOff(), default=False, help="keep what the file holds")


Chardev = StdioChardev | PtyChardev | SocketChardev | FileChardev

CHARDEVS = Family(
    "-chardev",
    key="backend",
    noun="backend",
    variants={
        "stdio": StdioChardev,
        "pty": PtyChardev,
        "socket": SocketChardev,
        "file": FileChardev,
    },
)
