"""Typed structs of the state in a snapshot, written as JSON.

A struct is declared beside the device whose state it is::

    class GedState(State):
        \"\"\"Events the guest has not taken.\"\"\"

        pending: int = opt(U32)

A field that a later version adds has a default, so that older files stay readable, and the
struct's `version` grows, so that older programs refuse newer files.
"""

from __future__ import annotations

from stratovirt.config.kinds import Integer, Kind, OnOff
from stratovirt.config.options import Options
from stratovirt.snapshot.errors import SnapshotError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Protocol, Self

    class Stateful(Protocol):
        """A part of a machine (device, bus, clock, vCPU) whose state is in snapshots."""

        @property
        def state_type(self) -> type[State]:
            """Type of the state that `save` returns."""

        def save(self) -> State:
            """The state while the machine is paused; raises SnapshotError if it has none."""

        def restore(self, state: Any) -> None:
            """Take over a saved state in a newly built machine; raises SnapshotError.

            The state may come from anybody: each value was checked against its field only.
            """


MOST_ENTRIES = 4096
"""Most entries of one list or object."""


class State(Options):
    """Base of the structs; `from_json` checks every value."""

    version = 1

    def to_json(self) -> dict[str, object]:
        """The struct as a JSON object."""
        fields = {key: _to_json(getattr(self, field.name)) for key, field in self.fields.items()}
        return {"version": self.version} | fields

    @classmethod
    def from_json(cls, arguments: Mapping[str, object], source: str) -> Self:
        """Parse the output of `to_json`, of this or an older version; raises ConfigError."""
        rest = dict(arguments)
        version = rest.pop("version", None)
        if type(version) is not int or not 1 <= version <= cls.version:
            raise SnapshotError(
                f"{source}: version {str(version)[:20]} of {cls.__name__} is not known; "
                f"this program reads up to {cls.version}"
            )
        return super().from_json(rest, source)


class NoState(State):
    """State of a part without any."""


class Stateless:
    """A part without state, which a restored machine must have all the same."""

    state_type: type[State] = NoState

    def save(self) -> NoState:
        """Nothing."""
        return NoState()

    def restore(self, state: NoState) -> None:
        """Does nothing."""


class Entry:
    """A part of a machine in the tree of states, at `path`.

    `option` is what the user writes to have the part (a driver of -device, "-serial"); empty for
    what every machine has.
    """

    __slots__ = ("option", "owner", "path")

    def __init__(self, path: str, owner: Stateful, option: str = "") -> None:
        self.path, self.owner, self.option = path, owner, option


class Struct(Kind["Any"]):
    """A struct within a struct."""

    allowed = "an object"

    def __init__(self, definition: type[State]) -> None:
        self.definition = definition

    def from_json(self, value: object) -> Any:
        """The struct."""
        if not isinstance(value, dict):
            raise ValueError(self.allowed)
        return self.definition.from_json(value, self.definition.__name__)


class Optional(Kind["Any"]):
    """A value, or null."""

    def __init__(self, kind: Kind[Any]) -> None:
        self.kind = kind
        self.allowed = f"{kind.allowed} or null"

    def from_json(self, value: object) -> Any:
        """The value or None."""
        return None if value is None else self.kind.from_json(value)


class Each(Kind["list[Any]"]):
    """A list of values of one kind."""

    def __init__(self, kind: Kind[Any], most: int = MOST_ENTRIES) -> None:
        self.kind = kind
        self.most = most
        self.allowed = f"a list of at most {most}"

    def from_json(self, value: object) -> list[Any]:
        """The values."""
        if not isinstance(value, list) or len(value) > self.most:
            raise ValueError(self.allowed)
        return [self.kind.from_json(entry) for entry in value]


class Bytes(Kind["bytes"]):
    """Bytes, written in hexadecimal."""

    def __init__(self, longest: int) -> None:
        self.longest = longest
        self.allowed = f"at most {longest} bytes in hexadecimal"

    def from_json(self, value: object) -> bytes:
        """The bytes."""
        if not isinstance(value, str) or len(value) > 2 * self.longest:
            raise ValueError(self.allowed)
        try:
            return bytes.fromhex(value)
        except ValueError:
            raise ValueError(self.allowed) from None


def _entries(value: object, allowed: str) -> dict[str, object]:
    if not isinstance(value, dict) or len(value) > MOST_ENTRIES:
        raise ValueError(allowed)
    return value


class Blobs(Kind["dict[str, bytes]"]):
    """Named structs of the kernel, as their bytes in hexadecimal."""

    allowed = "an object of hexadecimal texts"

    def __init__(self, longest: int) -> None:
        self._bytes = Bytes(longest)

    def from_json(self, value: object) -> dict[str, bytes]:
        """The structs by name."""
        entries = _entries(value, self.allowed)
        return {name: self._bytes.from_json(content) for name, content in entries.items()}


class Numbers(Kind["dict[int, int]"]):
    """64-bit numbers by number."""

    allowed = "an object of 64-bit numbers by number"

    def from_json(self, value: object) -> dict[int, int]:
        """The numbers."""
        entries = _entries(value, self.allowed)
        return {U32.parse(key): U64.from_json(number) for key, number in entries.items()}


class Line(Kind["str"]):
    """A text of at most 4096 characters."""

    allowed = "a text of at most 4096 characters"

    def from_json(self, value: object) -> str:
        """The text."""
        if not isinstance(value, str) or len(value) > 4096:
            raise ValueError(self.allowed)
        return value


class Texts(Kind["dict[str, str]"]):
    """Texts by name."""

    allowed = "an object of texts"

    def from_json(self, value: object) -> dict[str, str]:
        """The texts."""
        entries = _entries(value, self.allowed)
        return {name: Line().from_json(text) for name, text in entries.items()}


U8 = Integer(0, (1 << 8) - 1)
U16 = Integer(0, (1 << 16) - 1)
U32 = Integer(0, (1 << 32) - 1)
U64 = Integer(0, (1 << 64) - 1)
FLAG = OnOff()


def _to_json(value: Any) -> object:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, State):
        return value.to_json()
    if isinstance(value, bytes | bytearray):
        return value.hex()
    if isinstance(value, dict):
        return {str(key): _to_json(entry) for key, entry in value.items()}
    return [_to_json(entry) for entry in value]
