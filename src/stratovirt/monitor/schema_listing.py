"""query-qmp-schema: every command, event and type, listed from their definitions."""

from __future__ import annotations

from stratovirt.config.options import REQUIRED, Family, Nested, Options
from stratovirt.monitor.registry import COMMANDS
from stratovirt.monitor.schema import (
    BUILTINS,
    EMPTY,
    EVENTS,
    Enum,
    ListOf,
    Struct,
    Type,
    type_name,
)


class SchemaListing:
    """Lists commands and events with the types they use; `entities` is the answer."""

    def __init__(self) -> None:
        self.entities: list[dict[str, object]] = []
        self._listed: set[str] = set()
        for name, json_type in BUILTINS.items():
            self._list(name, {"meta-type": "builtin", "json-type": json_type})
        self._add(EMPTY)
        for name in sorted(COMMANDS):
            command = COMMANDS[name]
            arguments = arguments_struct(command.arguments, f"q_obj_{name}-arg")
            self._add(arguments)
            self._add(command.answer)
            self._list(
                name,
                {
                    "meta-type": "command",
                    "arg-type": arguments.name,
                    "ret-type": type_name(command.answer),
                    "allow-oob": False,
                },
            )
        for name, content in EVENTS.items():
            self._add(content)
            self._list(name, {"meta-type": "event", "arg-type": content.name})

    def _list(self, name: str, entity: dict[str, object]) -> None:
        self.entities.append({"name": name, **entity})
        self._listed.add(name)

    def _add(self, kind: Type) -> None:
        if isinstance(kind, str) or kind.name in self._listed:
            return
        if isinstance(kind, Enum):
            self._list(kind.name, {"meta-type": "enum", "values": list(kind.values)})
        elif isinstance(kind, ListOf):
            element = type_name(kind.element)
            self._list(kind.name, {"meta-type": "array", "element-type": element})
            self._add(kind.element)
        else:
            members = [
                {"name": key, "type": type_name(member)}
                | ({"default": None} if key in kind.optional else {})
                for key, member in kind.members.items()
            ]
            self._list(kind.name, {"meta-type": "object", "members": members})
            for member in kind.members.values():
                self._add(member)


def arguments_struct(arguments: type[Options] | Family, name: str) -> Struct:
    """The type of a command's arguments; for a family, the union of its variants' members."""
    if isinstance(arguments, Family):
        members: dict[str, Type] = {arguments.key: Enum(f"{name}-key", *arguments.variants)}
        for variant in arguments.variants.values():
            for key, kind in _members(variant, name).items():
                # A member is required only if every variant requires it.
                needed = all(
                    key in other.fields and other.fields[key].default is REQUIRED
                    for other in arguments.variants.values()
                )
                members[key.removesuffix("?") if needed else f"{key.removesuffix('?')}?"] = kind
        return Struct(name, members)
    return Struct(name, _members(arguments, name)) if arguments.fields else EMPTY


def _members(arguments: type[Options], name: str) -> dict[str, Type]:
    members: dict[str, Type] = {}
    for key, field in arguments.fields.items():
        words = getattr(field.kind, "words", None)
        kind: Type = field.kind.json_type
        if isinstance(field.kind, Nested):
            kind = arguments_struct(field.kind.definition, f"{name}-{key}")
        elif words:
            kind = Enum(f"{name}-{key}", *words)
        members[key if field.default is REQUIRED else f"{key}?"] = kind
    return members
