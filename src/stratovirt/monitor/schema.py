"""Types of command answers and event data, as introspection publishes them.

A type is one of the builtins below, an Enum, a Struct or a ListOf; the names follow QEMU's QAPI.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

BUILTINS = {
    "str": "string",
    "int": "int",
    "size": "int",
    "number": "number",
    "bool": "boolean",
    "any": "value",
}
"""QAPI's builtin types and the JSON type of each."""


class Enum:
    """An enumeration: one of the words in `values`."""

    def __init__(self, name: str, *values: str) -> None:
        self.name, self.values = name, values


class Struct:
    """An object; a member whose key ends in ``?`` may be missing."""

    def __init__(self, name: str, members: Mapping[str, Type]) -> None:
        self.name = name
        self.members = {key.removesuffix("?"): member for key, member in members.items()}
        self.optional = {key[:-1] for key in members if key.endswith("?")}


class ListOf:
    """An array."""

    def __init__(self, element: Type) -> None:
        self.element = element

    @property
    def name(self) -> str:
        """The type's name in QAPI's notation."""
        return f"[{type_name(self.element)}]"


Type = str | Enum | Struct | ListOf

EMPTY = Struct("q_empty", {})
"""The answer of a command without a result."""

RUN_STATE = Enum(
    "RunState",
    "debug", "finish-migrate", "inmigrate", "internal-error", "io-error", "paused", "postmigrate",
    "prelaunch", "restore-vm", "running", "save-vm", "shutdown", "suspended", "watchdog",
)  # fmt: skip
SHUTDOWN_CAUSE = Enum(
    "ShutdownCause",
    "host-error", "host-qmp-quit", "host-qmp-system-reset", "host-signal", "host-ui",
    "guest-shutdown", "guest-reset", "guest-panic",
)  # fmt: skip
MIGRATION_STATUS = Enum(
    "MigrationStatus", "none", "setup", "active", "completed", "failed", "canceled"
)

EVENTS: dict[str, Struct] = {
    "SHUTDOWN": Struct("SHUTDOWN-arg", {"guest": "bool", "reason": SHUTDOWN_CAUSE}),
    "RESET": Struct("RESET-arg", {"guest": "bool", "reason": SHUTDOWN_CAUSE}),
    "STOP": EMPTY,
    "RESUME": EMPTY,
    "POWERDOWN": EMPTY,
    "DEVICE_DELETED": Struct("DEVICE_DELETED-arg", {"device?": "str", "path": "str"}),
    "BALLOON_CHANGED": Struct("BALLOON_CHANGED-arg", {"actual": "int"}),
    "MIGRATION": Struct("MIGRATION-arg", {"status": MIGRATION_STATUS, "error-desc?": "str"}),
}
"""Every QMP event, with the type of its data."""


def type_name(kind: Type) -> str:
    """The name that introspection gives a type."""
    return kind if isinstance(kind, str) else kind.name
