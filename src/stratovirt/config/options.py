"""One definition per option: from it come parsing, checks, help and the QMP arguments.

An option is a class with typed fields::

    class Smp(Options, flag="-smp", first="cpus"):
        \"\"\"Virtual CPUs and their topology.\"\"\"

        cpus: int = opt(Integer(1, 254), default=1, help="vCPUs present at start")

``Smp.parse("2,maxcpus=4")`` and ``Smp(cpus=2)`` give an immutable object.  ``first`` names the
field that a first word without ``=`` sets; a switch may be written without its value.  An option
with `whole` takes its text as one value, commas and all.  A `Family` chooses among definitions by
its first word, as ``-device DRIVER,...`` does.
"""

from __future__ import annotations

from stratovirt.config.errors import ConfigError
from stratovirt.config.keyval import shown, split
from stratovirt.config.kinds import Kind, OnOff, one_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any, Self, TypeVar, dataclass_transform

    from stratovirt.host.request import Named

    T = TypeVar("T")
else:

    def dataclass_transform(**_arguments: object) -> object:
        """Runtime stand-in: the decorator only informs type checkers."""
        return lambda cls: cls


REQUIRED: Any = object()


class Field:
    """One property of an option."""

    __slots__ = ("default", "help", "key", "kind", "name")

    def __init__(self, kind: Kind[Any], default: Any, key: str | None, text: str) -> None:
        self.kind = kind
        self.default = default
        self.key = key or ""
        self.help = text
        self.name = ""


def opt(kind: Kind[T], *, default: Any = REQUIRED, key: str | None = None, help: str = "") -> Any:
    """Define a property: its kind, default (none: it is required), spelling and help line."""
    return Field(kind, default, key, help)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(opt,))
class Options:
    """Base of every option; see the module's text."""

    flag = ""
    first: str | None = None
    whole: str | None = None
    fields: dict[str, Field] = {}
    """Properties by the key the user writes."""

    def __init_subclass__(
        cls, flag: str = "", first: str | None = None, whole: str | None = None
    ) -> None:
        """Collect the fields; a subclass inherits those of its bases."""
        cls.flag = flag or cls.flag
        cls.first = first or cls.first
        cls.whole = whole or cls.whole
        cls.fields = {}
        for base in reversed(cls.__bases__):
            cls.fields |= getattr(base, "fields", {})
        for name, field in list(vars(cls).items()):
            if isinstance(field, Field):
                field.name = name
                field.key = field.key or name.rstrip("_").replace("_", "-")
                cls.fields[field.key] = field
                delattr(cls, name)

    def __init__(self, **values: Any) -> None:
        """Set the given fields and the defaults of the others."""
        for field in self.fields.values():
            value = values.pop(field.name, field.default)
            if value is REQUIRED:
                raise TypeError(f"{type(self).__name__} needs {field.name}")
            object.__setattr__(self, field.name, value)
        if values:
            raise TypeError(f"{type(self).__name__} has no field {next(iter(values))}")
        self.check()

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse: options do not change once read."""
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __delattr__(self, name: str) -> None:
        """Refuse: options do not change once read."""
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __repr__(self) -> str:
        """The fields, as they were given."""
        values = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in self.fields.values())
        return f"{type(self).__name__}({values})"

    def __eq__(self, other: object) -> bool:
        """Equal when of one class with equal fields."""
        return type(other) is type(self) and vars(other) == vars(self)

    __hash__ = None  # type: ignore[assignment]

    def check(self) -> None:
        """Rules between fields; raises ValueError with a sentence about them."""

    def names(self) -> Named | None:
        """The requests to the host that a QMP command with these arguments grants."""
        return None

    def replace(self, **changes: Any) -> Self:
        """The same option with some fields changed."""
        return type(self)(**{**vars(self), **changes})

    @classmethod
    def parse(cls, text: str, flag: str | None = None) -> Self:
        """Read ``first,key=value``; raises ConfigError naming the option and what is wrong."""
        flag = flag or cls.flag
        if cls.whole is not None:
            return cls.from_pairs([(cls.whole, text)], f"{flag} {shown(text)}")
        return cls.from_pairs(split(flag, text), f"{flag} {shown(text)}")

    @classmethod
    def from_pairs(cls, pairs: Iterable[tuple[str | None, str]], source: str) -> Self:
        """Read pairs from a command line; `source` starts the error messages."""
        values: dict[str, object] = {}
        for index, (key, text) in enumerate(pairs):
            if key is None:
                field = cls.fields.get(text)
                if field is not None and isinstance(field.kind, OnOff):
                    key, text = text, "on"
                elif index == 0 and cls.first is not None:
                    key = cls.first
                else:
                    known = f"; write {text}=..." if field else cls._known()
                    raise ConfigError(f"{source}: '{text}' needs a value or is unknown{known}")
            field = cls._field(key, values, source)
            try:
                values[field.name] = field.kind.parse(text)
            except ValueError as error:
                shown_text = shown(text) if text else ""
                raise ConfigError(f"{source}: {key} must be {error}, not '{shown_text}'") from None
        return cls._complete(values, source)

    @classmethod
    def from_json(cls, arguments: Mapping[str, object], source: str) -> Self:
        """Read the arguments of a QMP command."""
        values: dict[str, object] = {}
        for key, value in arguments.items():
            field = cls._field(key, values, source)
            try:
                values[field.name] = field.kind.from_json(value)
            except ValueError as error:
                shown = repr(value) if len(repr(value)) < 80 else type(value).__name__
                raise ConfigError(f"{source}: {key} must be {error}, not {shown}") from None
        return cls._complete(values, source)

    @classmethod
    def _field(cls, key: str, values: Mapping[str, object], source: str) -> Field:
        field = cls.fields.get(key)
        if field is None:
            raise ConfigError(f"{source}: unknown property '{key}'{cls._known()}")
        if field.name in values:
            raise ConfigError(f"{source}: {key} is given twice")
        return field

    @classmethod
    def _known(cls) -> str:
        return f"; known are {one_of(list(cls.fields))}" if cls.fields else "; it takes none"

    @classmethod
    def _complete(cls, values: dict[str, object], source: str) -> Self:
        for key, field in cls.fields.items():
            if field.default is REQUIRED and field.name not in values:
                raise ConfigError(f"{source}: {key} is missing; it must be {field.kind.allowed}")
        try:
            return cls(**values)
        except ValueError as error:
            raise ConfigError(f"{source}: {error}") from None


class Nested(Kind["Any"]):
    """An object inside a QMP command's arguments, with properties of its own."""

    allowed = "an object"
    json_type = "object"

    def __init__(self, definition: type[Options]) -> None:
        self.definition = definition

    def from_json(self, value: object) -> Any:
        """The object read by its definition."""
        if not isinstance(value, dict):
            raise ValueError(self.allowed)
        return self.definition.from_json(value, self.definition.flag)


class Family:
    """Definitions that share a flag; the first word (or `key`) of the value chooses one."""

    def __init__(
        self,
        flag: str,
        *,
        key: str,
        noun: str,
        variants: dict[str, type[Options]] | None = None,
        default: str | None = None,
    ) -> None:
        self.flag, self.key, self.noun = flag, key, noun
        self._variants = variants or {}
        self.default = default
        """The variant that JSON arguments without `key` mean."""

    @property
    def variants(self) -> dict[str, type[Options]]:
        """The definitions by the word that chooses each."""
        return self._variants

    def find(self, word: str) -> type[Options] | None:
        """The definition that `word` chooses."""
        return self.variants.get(word)

    def parse(self, text: str, flag: str | None = None, **defaults: str) -> Any:
        """Read ``variant,key=value``; `defaults` are pairs the text may not give."""
        flag = flag or self.flag
        (key, word), *pairs = split(flag, text)
        if key not in (None, self.key):
            raise ConfigError(f"{flag} {shown(text)}: the {self.noun} comes first, then {key}=...")
        variant = self._variant(word, f"{flag} {shown(text)}")
        return variant.from_pairs([*pairs, *defaults.items()], f"{flag} {shown(text)}")

    def from_json(self, arguments: Mapping[str, object], source: str) -> Any:
        """Read the arguments of a QMP command; `key` among them chooses."""
        rest = dict(arguments)
        word = rest.pop(self.key, self.default)
        if not isinstance(word, str):
            raise ConfigError(f"{source}: {self.key} is missing; it must be {self._choices()}")
        return self._variant(word, source).from_json(rest, source)

    def _variant(self, word: str, source: str) -> type[Options]:
        variant = self.find(word)
        if variant is None:
            raise ConfigError(
                f"{source}: unknown {self.noun} '{word[:80]}'; known are {self._choices()}"
            )
        return variant

    def _choices(self) -> str:
        return one_of(list(self.variants))
