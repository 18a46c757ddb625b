"""Back ends and front ends: -drive, -chardev, -serial, -qmp, and the -device drivers."""

from __future__ import annotations

from stratovirt.config.kinds import (
    SOCKET_PATH_LONGEST,
    Choice,
    Identifier,
    OnOff,
    PathName,
    Text,
)
from stratovirt.config.options import Options, opt


class Drive(Options, flag="-drive"):
    """A block back end for a later -device."""

    id: str = opt(Identifier(), help="name that the device refers to")
    file: str = opt(PathName(), help="image file or block device on the host")
    readonly: bool = opt(OnOff(), default=False, help="refuse writes")
    direct: bool = opt(OnOff(), default=True, help="bypass the host's page cache (O_DIRECT)")
    if_: str = opt(Choice("none"), default="none", key="if", help="none: a -device uses it")
    format: str = opt(Choice("raw"), default="raw", help="image format")


class VirtioBlk(Options, flag="-device virtio-blk-device"):
    """Block device (virtio 1.2, section 5.2)."""

    drive: str = opt(Identifier(), help="id of a -drive")
    id: str | None = opt(Identifier(), default=None, help="device name")
    serial: str | None = opt(Text(longest=20), default=None, help="up to 20 characters")


class StdioChardev(Options, flag="-chardev stdio"):
    """This process's standard input and output; a terminal is put into raw mode."""

    id: str = opt(Identifier(), help="name that users of the chardev refer to")


class FileChardev(Options, flag="-chardev file"):
    """A file that output is written to."""

    id: str = opt(Identifier(), help="name that users of the chardev refer to")
    path: str = opt(PathName(), help="the file; created, or emptied when it exists")


class SocketChardev(Options, flag="-chardev socket"):
    """A UNIX socket with one peer at a time."""

    id: str = opt(Identifier(), help="name that users of the chardev refer to")
    path: str = opt(PathName(SOCKET_PATH_LONGEST), help="path of the socket")
    server: bool = opt(OnOff(), default=False, help="listen instead of connecting")
    nowait: bool = opt(OnOff(), default=False, help="do not wait for a client before starting")
    wait: bool | None = opt(OnOff(), default=None, help="wait for a client (the default)")


class PtyChardev(Options, flag="-chardev pty"):
    """A new pseudo terminal; its path is printed."""

    id: str = opt(Identifier(), help="name that users of the chardev refer to")


Chardev = StdioChardev | FileChardev | SocketChardev | PtyChardev

CHARDEVS: dict[str, type[Chardev]] = {
    "stdio": StdioChardev,
    "pty": PtyChardev,
    "socket": SocketChardev,
    "file": FileChardev,
}


class Qmp(Options, flag="-qmp"):
    """A monitor socket."""

    path: str = opt(PathName(SOCKET_PATH_LONGEST), help="path of the UNIX socket")
    server: bool = opt(OnOff(), default=False, help="listen (the only role there is)")
    nowait: bool = opt(OnOff(), default=False, help="start the guest without a client")
    wait: bool | None = opt(OnOff(), default=None, help="wait for a client first")

    def check(self) -> None:
        """A monitor always listens."""
        if not self.server:
            raise ValueError("the monitor listens; add 'server'")
