"""The registry of commands: name, typed arguments, typed answer and function of each."""

from __future__ import annotations

from stratovirt.config.options import Family, Options
from stratovirt.monitor.schema import EMPTY, Type

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    CommandFunction = Callable[[Any, Any], object]
    """Called with the session and its arguments."""
    Arguments = type[Options] | Family


class NoArguments(Options):
    """No arguments."""


class Command:
    """One command: its arguments' definition, the type of its answer, and its function."""

    __slots__ = ("answer", "arguments", "function", "name")

    def __init__(
        self, name: str, arguments: Arguments, answer: Type, function: CommandFunction
    ) -> None:
        self.name, self.arguments = name, arguments
        self.answer, self.function = answer, function


COMMANDS: dict[str, Command] = {}


def command(
    name: str, arguments: Arguments = NoArguments, *, answer: Type = EMPTY
) -> Callable[[CommandFunction], CommandFunction]:
    """Register the decorated function as `name`."""

    def register(function: CommandFunction) -> CommandFunction:
        COMMANDS[name] = Command(name, arguments, answer, function)
        return function

    return register
