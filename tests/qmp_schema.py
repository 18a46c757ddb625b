"""Checks answers against what query-qmp-schema says of them, as a strict client would."""

from collections.abc import Callable
from typing import Any

BUILTIN_CHECKS: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "int": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "value": lambda _value: True,
}


class Schema:
    """The entities of query-qmp-schema by name."""

    def __init__(self, entities: list[dict[str, Any]]) -> None:
        self.entities = {entity["name"]: entity for entity in entities}
        assert len(self.entities) == len(entities), "two entities share a name"

    def names(self, meta_type: str) -> set[str]:
        """All entities of one kind."""
        return {n for n, e in self.entities.items() if e["meta-type"] == meta_type}

    def check_answer(self, command: str, answer: object) -> None:
        """Fail unless `answer` is what `command` is declared to return."""
        self.check(self.entities[command]["ret-type"], answer, command)

    def check(self, type_name: str, value: Any, where: str) -> None:
        """Fail unless `value` is of the named type."""
        entity = self.entities[type_name]
        kind = entity["meta-type"]
        if kind == "builtin":
            assert BUILTIN_CHECKS[entity["json-type"]](value), f"{where}: {value!r}"
        elif kind == "enum":
            assert value in entity["values"], f"{where}: {value!r}"
        elif kind == "array":
            assert isinstance(value, list), where
            for index, element in enumerate(value):
                self.check(entity["element-type"], element, f"{where}[{index}]")
        else:
            assert kind == "object" and isinstance(value, dict), where
            members = {member["name"]: member for member in entity["members"]}
            assert set(value) <= set(members), f"{where}: {set(value) - set(members)}"
            for name, member in members.items():
                assert name in value or "default" in member, f"{where} lacks {name}"
                if name in value:
                    self.check(member["type"], value[name], f"{where}.{name}")
