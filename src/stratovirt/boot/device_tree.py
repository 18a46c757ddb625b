"""Writer of flattened device trees (Devicetree Specification v0.4, chapter 5)."""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MAGIC, VERSION, LAST_COMPATIBLE_VERSION = 0xD00D_FEED, 17, 16
HEADER = struct.Struct(">10I")
RESERVATIONS_END = bytes(16)
"""End of the list of reserved memory, which has no entries here."""
BEGIN_NODE, END_NODE, PROPERTY, END = 1, 2, 3, 9


def pair(value: int) -> tuple[int, int]:
    """A 64-bit number as two cells, the upper half first."""
    return value >> 32, value & 0xFFFF_FFFF


class Node:
    """A node with its properties and children; `path` is its full name."""

    def __init__(self, name: str, path: str) -> None:
        self.name, self.path = name, path
        self.properties: dict[str, bytes] = {}
        self.children: list[Node] = []

    def set(self, name: str, *values: int | str | bytes) -> None:
        """Set a property: numbers are 32-bit cells, texts end in NUL, bytes are as they are.

        Without values it is empty, which means true.
        """
        self.properties[name] = b"".join(
            struct.pack(">I", value)
            if isinstance(value, int)
            else (value.encode() + b"\0" if isinstance(value, str) else value)
            for value in values
        )

    def add(self, name: str) -> Node:
        """Add a child."""
        node = Node(name, f"{self.path.rstrip('/')}/{name}")
        self.children.append(node)
        return node


class DeviceTree:
    """The tree of a machine, whose addresses and sizes have two cells.

    `specifier(line, is level-triggered)` is the cells of the interrupt controller for a line.
    """

    def __init__(
        self,
        model: str,
        compatible: str,
        controller: str,
        specifier: Callable[[int, bool], tuple[int, ...]],
    ) -> None:
        self._specifier = specifier
        self._phandles = 0
        self.root = Node("", "/")
        self.root.set("model", model)
        self.root.set("compatible", compatible)
        self.root.set("#address-cells", 2)
        self.root.set("#size-cells", 2)
        self.chosen = self.root.add("chosen")
        self.controller = self.root.add(controller)
        """The interrupt controller, whose part adds its properties."""
        self.controller.set("interrupt-controller")
        self.controller.set("#interrupt-cells", len(specifier(0, True)))
        self.controller.set("#address-cells", 0)
        self._controller_phandle = self.phandle(self.controller)
        self.root.set("interrupt-parent", self._controller_phandle)

    def phandle(self, node: Node) -> int:
        """Give the node a phandle, the number by which others refer to it."""
        self._phandles += 1
        node.set("phandle", self._phandles)
        return self._phandles

    def add_device(self, name: str, base: int, size: int, *compatible: str) -> Node:
        """Add a node for registers at `base`, with the bindings it is `compatible` with."""
        node = self.root.add(f"{name}@{base:x}")
        node.set("compatible", *compatible)
        node.set("reg", *self.range(base, size))
        return node

    def range(self, base: int, size: int) -> tuple[int, ...]:
        """The cells of an address and a size."""
        return *pair(base), *pair(size)

    def interrupt(self, line: int, *, level: bool) -> tuple[int, ...]:
        """The cells of an interrupt line for the property `interrupts`."""
        return self._specifier(line, level)

    def interrupt_of_map(self, line: int) -> tuple[int, ...]:
        """The parent's cells of a level-triggered line in an `interrupt-map`."""
        return self._controller_phandle, *self._specifier(line, True)

    def choose(
        self, bootargs: bytes, initrd: tuple[int, int] | None, random: Callable[[int], bytes]
    ) -> None:
        """Add what the kernel is started with: command line, initrd (gpa, size), and seeds."""
        self.chosen.set("bootargs", bootargs + b"\0")
        if initrd is not None:
            first, size = initrd
            self.chosen.set("linux,initrd-start", *pair(first))
            self.chosen.set("linux,initrd-end", *pair(first + size))
        self.chosen.set("kaslr-seed", random(8))
        self.chosen.set("rng-seed", random(32))

    def blob(self) -> bytes:
        """The flattened tree."""
        strings: dict[str, int] = {}
        body = _flatten(self.root, strings) + struct.pack(">I", END)
        names = b"".join(name.encode() + b"\0" for name in strings)
        body_at = HEADER.size + len(RESERVATIONS_END)
        names_at = body_at + len(body)
        header = HEADER.pack(
            MAGIC, names_at + len(names), body_at, names_at, HEADER.size,
            VERSION, LAST_COMPATIBLE_VERSION, 0, len(names), len(body),
        )  # fmt: skip
        return header + RESERVATIONS_END + body + names


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 4)


def _flatten(node: Node, strings: dict[str, int]) -> bytes:
    """The structure block of a node; `strings` has the offsets of the names of properties."""
    body = struct.pack(">I", BEGIN_NODE) + _padded(node.name.encode() + b"\0")
    for name, value in node.properties.items():
        if name not in strings:
            strings[name] = sum(len(other.encode()) + 1 for other in strings)
        body += struct.pack(">III", PROPERTY, len(value), strings[name]) + _padded(value)
    body += b"".join(_flatten(child, strings) for child in node.children)
    return body + struct.pack(">I", END_NODE)
