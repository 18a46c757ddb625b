"""Requests: each opens one kind of host resource, here or in the broker of a locked-down machine.

A request is declared beside the resource that it opens::

    class TapRequest(Request["list[int]"], kind="tap"):
        \"\"\"Open the queues of a tap.\"\"\"

        name: str
        queues: int
        source: str = detail(default="")

        def open(self, machine: str = "self", /) -> Opened:
            return Opened(open_queues(self.name, self.queues, self.source))

        def receive(self, opened: Opened) -> list[int]:
            return opened.fds

The fields that are no `detail` are its grant: a client of a monitor must have named them all, by
the `names` of a command's options, before the broker opens them.  Details are the machine's own
choice, which may not widen what is opened.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any, Generic, Protocol, Self, TypeVar, dataclass_transform

    T = TypeVar("T")

    class Kept(Protocol):
        """An opened resource that is unfinished until one of these two is called."""

        def commit(self) -> None:
            """Move it to its final place; raises StratovirtError or OSError."""

        def discard(self) -> None:
            """Remove it."""

    class RequestFor(Generic[T]):
        """Typing face of Request."""
else:

    class RequestFor:
        """Runtime face of Request: no generics, so that start-up does not import typing."""

        def __class_getitem__(cls, _item: object) -> type:
            return cls

    def dataclass_transform(**_arguments: object) -> object:
        """Runtime stand-in: the decorator only informs type checkers."""
        return lambda cls: cls


class Opened:
    """The answer to a request: descriptors, fields about them, and what is `kept` unfinished."""

    __slots__ = ("fds", "fields", "kept")

    def __init__(
        self, fds: list[int], fields: dict[str, Any] | None = None, kept: Kept | None = None
    ) -> None:
        self.fds, self.fields, self.kept = fds, fields or {}, kept


class _Detail:
    __slots__ = ("default",)

    def __init__(self, default: object) -> None:
        self.default = default


def detail(*, default: Any) -> Any:
    """Define a field that the machine chooses freely, and its default."""
    return _Detail(default)


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(type(entry) is str for entry in value):
        raise ValueError("not a list of texts")
    return tuple(value)


def _exactly(wanted: type) -> Any:
    def read(value: object) -> object:
        if type(value) is not wanted:
            raise ValueError(f"not of type {wanted.__name__}")
        return value

    return read


READERS = {
    "str": _exactly(str),
    "int": _exactly(int),
    "bool": _exactly(bool),
    "tuple[str, ...]": _texts,
}
"""How a field of each type is read from JSON; raises ValueError."""


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(detail,))
class Request(RequestFor["T"], ABC):
    """Base of the requests; see the module's text. `kind` is its name on the wire."""

    kind = ""
    _fields: dict[str, str] = {}
    """Types of the fields, in the order of their declaration."""
    _details: dict[str, object] = {}
    """Defaults of the fields that are no part of the grant."""

    def __init_subclass__(cls, kind: str) -> None:
        """Collect the fields, whose annotations are texts."""
        cls.kind = kind
        cls._fields = dict(cls.__annotations__)
        cls._details = {}
        for name in cls._fields:
            declared = vars(cls).get(name)
            if isinstance(declared, _Detail):
                cls._details[name] = declared.default
                delattr(cls, name)

    def __init__(self, **values: Any) -> None:
        """Set the given fields, and the defaults of details."""
        if values.keys() - self._fields.keys() or self._fields.keys() - {*values, *self._details}:
            raise TypeError(f"{type(self).__name__} needs {', '.join(self._fields)}")
        for name in self._fields:
            value = values.get(name, self._details.get(name))
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse: a request does not change."""
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __str__(self) -> str:
        """The request in an error's text: the first name in it, or its kind."""
        return str(self.grant[1]) if len(self.grant) > 1 else self.kind

    @property
    def grant(self) -> tuple[object, ...]:
        """The kind and the fields that a client must have named."""
        named = [getattr(self, name) for name in self._fields if name not in self._details]
        return (self.kind, *named)

    @property
    def fields(self) -> dict[str, object]:
        """All fields, for `decode` in another process."""
        return {name: getattr(self, name) for name in self._fields}

    @classmethod
    def decode(cls, fields: Mapping[str, object]) -> Self:
        """The request of these fields, which may be anything; raises ValueError."""
        if fields.keys() != cls._fields.keys():
            raise ValueError(f"{cls.kind!r} has the fields {', '.join(cls._fields) or 'none'}")
        return cls(**{name: READERS[cls._fields[name]](value) for name, value in fields.items()})

    @abstractmethod
    def open(self, machine: str = "self", /) -> Opened:
        """Open it in this process, for the process `machine` of /proc.

        Raises StratovirtError and OSError.
        """

    @abstractmethod
    def receive(self, opened: Opened) -> T:
        """The resource as the machine uses it, which owns the descriptors from now on."""


class Named:
    """The grants of one command: to open `once`, and a chardev `added` or `removed` by it."""

    __slots__ = ("added", "once", "removed")

    def __init__(
        self,
        once: Iterable[Request[Any]] = (),
        added: tuple[str, Request[Any]] | None = None,
        removed: str | None = None,
    ) -> None:
        self.once, self.added, self.removed = list(once), added, removed
