"""Grants: the requests that the broker may open for a locked-down machine.

The broker parses the clients' commands before the machine does, with the same code: a command
with invalid arguments grants nothing.  A command grants the names in its arguments, with their
mode, until the machine has answered it.  A machine that a guest has taken over can therefore open
only files that its manager names at that moment.
"""

from __future__ import annotations

from importlib import import_module

from stratovirt.config.errors import ConfigError
from stratovirt.qmp.errors import QmpError
from stratovirt.qmp.framing import Framer, TooLong
from stratovirt.qmp.request import command_of, decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from stratovirt.config.options import Family, Options
    from stratovirt.host.request import Named, Request

NAMING = {
    "blockdev-add": "stratovirt.config.hot_replace.Blockdev",
    "netdev_add": "stratovirt.config.hotplug.HOT_NETDEVS",
    "chardev-add": "stratovirt.config.chardev_add.ChardevAdd",
    "chardev-remove": "stratovirt.config.chardev_add.ChardevRemove",
    "device_add": "stratovirt.config.registry.HOT_DRIVERS",
    "migrate": "stratovirt.config.process.Migrate",
}
"""The definition of the arguments of each command that `names` something, imported at its use."""
MOST_WAITING = 4096
"""Most unanswered commands of one client with grants; beyond it the oldest grants expire."""


class Grants:
    """All grants; from the command line `standing` ones for good, and `chardevs` by id."""

    def __init__(
        self,
        standing: Iterable[Request[Any]] = (),
        chardevs: Mapping[str, Request[Any]] | None = None,
    ) -> None:
        self._standing = list(standing)
        self._chardevs = dict(chardevs or {})
        self.witnesses: list[Witness] = []

    def take(self, kind: str, fields: Mapping[str, object]) -> Request[Any] | None:
        """The request of these fields if it is granted, using up a grant of a command.

        Only the class of a request that is granted decodes the fields, which may be anything.
        Raises ValueError for fields that no request of this kind has.
        """
        for held in (*self._standing, *self._chardevs.values()):
            request = _matching(held, kind, fields)
            if request is not None:
                return request
        for witness in self.witnesses:
            request = witness.take(kind, fields)
            if request is not None:
                return request
        return None

    def settle(self, named: Named) -> None:
        """Apply the chardev changes of a command that has succeeded."""
        if named.added is not None:
            # The back end may reconnect at any time until its chardev is removed.
            self._chardevs[named.added[0]] = named.added[1]
        if named.removed is not None:
            self._chardevs.pop(named.removed, None)


class Witness:
    """Parses the requests of one monitor's clients for grants; `count` is their number so far."""

    def __init__(self, grants: Grants) -> None:
        self._grants = grants
        self._framer = Framer()
        self._waiting: dict[int, Named] = {}
        self.count = 0
        grants.witnesses.append(self)

    def forget(self) -> None:
        """Drop the grants of a client that has disconnected."""
        self._framer = Framer()
        self._waiting.clear()

    def read(self, received: bytes) -> None:
        """Parse bytes that the client has sent."""
        for frame in self._framer.feed(received):
            self.count += 1
            named = None if isinstance(frame, TooLong) else _named(frame)
            if named is not None:
                self._waiting[self.count] = named
                if len(self._waiting) > MOST_WAITING:
                    del self._waiting[min(self._waiting)]

    def answered(self, number: int, *, accepted: bool) -> None:
        """End the grants of request `number` and those before it: the machine has answered them."""
        named = self._waiting.get(number)
        if named is not None and accepted:
            self._grants.settle(named)
        for other in [other for other in self._waiting if other <= number]:
            del self._waiting[other]

    def take(self, kind: str, fields: Mapping[str, object]) -> Request[Any] | None:
        """Use up a grant of an unanswered command; None if there is none."""
        for named in self._waiting.values():
            for held in named.once:
                request = _matching(held, kind, fields)
                if request is not None:
                    named.once.remove(held)
                    return request
        return None


def _matching(held: Request[Any], kind: str, fields: Mapping[str, object]) -> Request[Any] | None:
    if held.kind != kind:
        return None
    request = held.decode(fields)
    return request if request.grant == held.grant else None


def _named(frame: bytes) -> Named | None:
    try:
        name, arguments = command_of(decode(frame))
        if name not in NAMING:
            return None
        options: Options = _definition(name).from_json(arguments, name)
        return options.names()
    except (QmpError, ConfigError):
        # The machine replies with the error.
        return None


def _definition(command: str) -> type[Options] | Family:
    module, _, name = NAMING[command].rpartition(".")
    definition: type[Options] | Family = getattr(import_module(module), name)
    return definition
