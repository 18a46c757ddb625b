"""The state of a machine as a tree: each part's struct by the part's path.

A path names the part as the user or the board does, not by its position.  ``peripheral/disk0``
is the device with this id, ``peripheral-anon/virtio-rng-device[0]`` the first of its driver without
an id, ``peripheral/disk0/device`` the device behind that transport; ``cpu/0``, ``clock`` and
``serial`` are parts of the accelerator and of the board.
"""

from __future__ import annotations

from stratovirt.config.keyval import shown
from stratovirt.snapshot.errors import SnapshotError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypeVar

    from stratovirt.snapshot.state import Entry, State

    AnyState = TypeVar("AnyState", bound=State)

MOST_NODES = 4096
LONGEST_NAME = 256
"""Most characters of a path and of an option."""


class Node:
    """One part: the name of its struct, the user's option behind it, and the struct, unread."""

    __slots__ = ("option", "state", "struct")

    def __init__(self, struct: str, option: str, state: dict[str, object]) -> None:
        self.struct, self.option, self.state = struct, option, state

    @classmethod
    def from_json(cls, path: str, value: object) -> Node:
        """Read the output of `to_json`; raises SnapshotError."""
        if isinstance(value, dict) and value.keys() == {"struct", "option", "state"}:
            struct, option, state = value["struct"], value["option"], value["state"]
            if _is_name(struct) and (option == "" or _is_name(option)) and isinstance(state, dict):
                return cls(struct, option, state)
        raise SnapshotError(f"the state's part {shown(path)} is damaged")

    def to_json(self) -> dict[str, object]:
        """The node as a JSON object."""
        return {"struct": self.struct, "option": self.option, "state": self.state}


def _is_name(text: object) -> bool:
    return (
        isinstance(text, str)
        and 0 < len(text) <= LONGEST_NAME
        and text.isascii()
        and text.isprintable()
    )


class Tree:
    """Nodes by path, in the order in which they are restored."""

    def __init__(self, nodes: dict[str, Node]) -> None:
        self._nodes = nodes

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Tree:
        """Save the parts of a paused machine; raises SnapshotError naming an unsavable one."""
        tree = cls({})
        for entry in entries:
            tree.put(entry.path, entry.owner.save(), entry.option)
        return tree

    @classmethod
    def from_json(cls, body: dict[str, object]) -> Tree:
        """Read the output of `to_json`; raises SnapshotError."""
        if len(body) > MOST_NODES:
            raise SnapshotError(f"the state has more than {MOST_NODES} parts")
        nodes: dict[str, Node] = {}
        for path, node in body.items():
            if not _is_name(path):
                raise SnapshotError(f"the state's part {shown(path)} is damaged")
            nodes[path] = Node.from_json(path, node)
        return cls(nodes)

    def to_json(self) -> dict[str, object]:
        """The tree as a JSON object."""
        return {path: node.to_json() for path, node in self._nodes.items()}

    def __contains__(self, path: str) -> bool:
        return path in self._nodes

    def put(self, path: str, state: State, option: str = "") -> None:
        """Add a part; raises ValueError for a path that is there already."""
        if path in self._nodes:
            raise ValueError(f"{path} is in the tree already")
        self._nodes[path] = Node(type(state).__name__, option, state.to_json())

    def take(self, path: str, definition: type[AnyState]) -> AnyState:
        """Take a part out and read it; raises SnapshotError and ConfigError."""
        if path not in self._nodes:
            raise SnapshotError(f"the state has no {path}")
        return self._read(path, self._nodes.pop(path), definition)

    def apply(self, entries: Iterable[Entry]) -> None:
        """Restore the parts of a newly built machine, in the order of `entries`.

        Nothing is restored before all of the tree is read and fits.  Raises SnapshotError and
        ConfigError, which name the part.
        """
        parts = list(entries)
        self._check_parts(parts)
        states = [
            self._read(part.path, self._nodes[part.path], part.owner.state_type) for part in parts
        ]
        for part, state in zip(parts, states, strict=True):
            part.owner.restore(state)

    def _check_parts(self, parts: list[Entry]) -> None:
        """Raise SnapshotError for a part that only one of the machines has, or that differs.

        One that the user can add or leave out is named first.
        """
        ours = {part.path: part.option for part in parts}
        theirs = {path: node.option for path, node in self._nodes.items()}
        both = {**theirs, **ours}
        for path in sorted(both, key=lambda path: not both[path]):
            if path not in ours:
                raise SnapshotError(
                    f"the snapshot's machine has {_described(path, theirs[path])} and this one "
                    "has none"
                )
            if path not in theirs:
                raise SnapshotError(
                    f"this machine has {_described(path, ours[path])} and the snapshot's has none"
                )
            if ours[path] != theirs[path]:
                raise SnapshotError(f"{path} is {ours[path]} and the snapshot's is {theirs[path]}")

    def _read(self, path: str, node: Node, definition: type[AnyState]) -> AnyState:
        if node.struct != definition.__name__:
            raise SnapshotError(
                f"{path}: the snapshot has a {node.struct}, not a {definition.__name__}"
            )
        return definition.from_json(node.state, path)


def _described(path: str, option: str) -> str:
    noun = "a device " if path.startswith("peripheral") else ""
    return f"{noun}{path} ({option})" if option else f"{noun}{path}"
