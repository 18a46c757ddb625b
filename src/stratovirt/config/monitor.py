"""Monitors: -qmp with a socket of its own, -mon on a chardev."""

from __future__ import annotations

from stratovirt.config.chardev import Listening, SocketChardev
from stratovirt.config.errors import ConfigError
from stratovirt.config.keyval import shown, split
from stratovirt.config.kinds import Choice, Identifier, OnOff, Reference
from stratovirt.config.options import Options, opt


class Mon(Options, flag="-mon", first="chardev"):
    """A QMP monitor on a chardev."""

    chardev: str = opt(Reference("-chardev"), help="id of the -chardev")
    id: str | None = opt(Identifier(), default=None, help="name of the monitor")
    mode: str = opt(Choice("control"), default="control", help="control: QMP")
    pretty: bool = opt(OnOff(), default=False, help="indent the replies")


class Qmp(Listening, flag="-qmp"):
    """A QMP monitor on a socket of its own: unix:PATH,server,nowait or tcp:HOST:PORT,..."""

    def check(self) -> None:
        """A monitor listens; what connects to a manager is -mon on a chardev."""
        super().check()
        if not self.server:
            raise ValueError("the monitor listens; add 'server'")


def parse_qmp(text: str) -> tuple[str, SocketChardev]:
    """Read -qmp; the address as written, and the chardev (without its final id) it means."""
    source = f"-qmp {shown(text)}"
    scheme, _, rest = text.partition(":")
    if scheme not in ("unix", "tcp"):
        raise ConfigError(f"{source}: must start with unix:PATH or tcp:HOST:PORT")
    if not rest:
        raise ConfigError(f"{source}: the address is missing")
    (key, address), *pairs = split("-qmp", rest)
    where: list[tuple[str | None, str]]
    if key is not None:
        address = f"{key}={address}"
    if scheme == "unix":
        where = [("path", address)]
    else:
        host, colon, port = address.rpartition(":")
        if not colon:
            raise ConfigError(f"{source}: must be tcp:HOST:PORT")
        where = [("port", port)]
        if host:
            where.append(("host", host.removeprefix("[").removesuffix("]")))
    Qmp.from_pairs(pairs, source)
    chardev = SocketChardev.from_pairs([*where, *pairs, ("id", "qmp")], source)
    return f"{scheme}:{address}", chardev
