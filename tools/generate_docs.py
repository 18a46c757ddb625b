"""Writes what the code says: docs/reference.md, guidebook.md, rooms.md and stratovirt.1.

With ``--check`` it writes nothing and fails when a file is stale.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.guidebook import rows

from stratovirt._native.trace_events import EVENTS as TRACE_EVENTS
from stratovirt.architectures import ARCHITECTURES
from stratovirt.config.kinds import OnOff, size_text
from stratovirt.config.options import REQUIRED, Family, Options
from stratovirt.config.reference import (
    IGNORED,
    IGNORED_TEXT,
    SECTIONS,
    default_text,
    summary,
    usage,
)
from stratovirt.monitor import commands  # noqa: F401  (registers them)
from stratovirt.monitor.registry import COMMANDS
from stratovirt.monitor.schema import EVENTS, ListOf, Struct, Type
from stratovirt.monitor.schema_listing import arguments_struct
from tools import rooms

ROOT = Path(__file__).resolve().parents[1]
NOTICE = "<!-- Written by `make docs` from the definitions; edit those. -->"


def variants(entry: type[Options] | Family) -> list[type[Options]]:
    """The definitions behind one entry of the reference."""
    return list(entry.variants.values()) if isinstance(entry, Family) else [entry]


def cell(text: str) -> str:
    """Text for a table's cell."""
    return text.replace("|", "\\|")


def reference() -> str:
    """docs/reference.md."""
    lines = [
        "# Reference", NOTICE, "",
        "Values are written `first,key=value,switch`; `,,` is a literal comma; switches take on,",
        "true, yes, off, false, no; numbers are decimal or 0x hex; sizes take K, M, G or T.",
        "One comma at the end is left out.", "",
        "What `-drive`, `-netdev`, `-chardev` or `-object` makes has to be used by another option;",
        "only an iothread may wait for a device that a monitor's client adds.",
    ]  # fmt: skip
    for title, group in SECTIONS.items():
        lines += ["", f"## {title}"]
        for entry in group:
            for option in variants(entry):
                lines += ["", f"### `{option.flag}`", "", summary(option)]
                if option.fields:
                    lines += ["", f"    {usage(option)}", ""]
                    lines += [
                        "| property | value | default | meaning |",
                        "| --- | --- | --- | --- |",
                    ]
                for key, field in option.fields.items():
                    default = "required" if field.default is REQUIRED else default_text(field)
                    value = "on or off" if type(field.kind) is OnOff else field.kind.allowed
                    lines.append(f"| `{key}` | {cell(value)} | {default} | {cell(field.help)} |")
    lines += ["", f"## {IGNORED_TEXT}", "", ", ".join(f"`{flag}`" for flag in IGNORED)]
    lines += boards()
    lines += [
        "",
        "## QMP commands",
        "",
        "| command | arguments | answer | |",
        "| --- | --- | --- | --- |",
    ]
    for name, command in sorted(COMMANDS.items()):
        taken = arguments_struct(command.arguments, name)
        arguments = ", ".join(f"`{k}`?" if k in taken.optional else f"`{k}`" for k in taken.members)
        text = (command.function.__doc__ or "").splitlines()[0]
        lines.append(f"| `{name}` | {arguments} | {answer(command.answer)} | {text} |")
    lines += ["", "## QMP events", "", "| event | data |", "| --- | --- |"]
    lines += [f"| `{name}` | {members(content)} |" for name, content in EVENTS.items()]
    lines += ["", "## Trace events", "", "| event | arguments | |", "| --- | --- | --- |"]
    for name, event in TRACE_EVENTS.items():
        arguments = ", ".join(f"{key} ({kind})" for key, kind in event.arguments.items())
        lines.append(f"| `{name}` | {arguments} | {event.help} |")
    return "\n".join(lines) + "\n"


def boards() -> list[str]:
    """The boards of all architectures, a row each."""
    lines = [
        "", "## Boards", "",
        "| machine type | architecture | vCPUs at most | memory at most | virtio-mmio devices "
        "| PCI | firmware |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    said = {True: "yes", False: "no"}
    for architecture in ARCHITECTURES:
        for board in architecture.boards.values():
            cells = (
                f"`{board.name}`", architecture.name, board.vcpus_most, size_text(board.ram_most),
                board.mmio_slots or "none", said[board.has_pci], said[board.has_flash],
            )  # fmt: skip
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def answer(kind: Type) -> str:
    """A type in a few words."""
    if isinstance(kind, str):
        return kind
    if isinstance(kind, ListOf):
        return f"list of {answer(kind.element)}"
    if isinstance(kind, Struct):
        return members(kind)
    return kind.name


def members(kind: Struct) -> str:
    """The members of an object."""
    names = [f"{key}?" if key in kind.optional else key for key in kind.members]
    return f"{{{', '.join(names)}}}" if names else "{}"


def guidebook() -> str:
    """docs/guidebook.md."""
    lines = [
        "# The guidebook, option by option", NOTICE, "",
        "Every option and property of StratoVirt's guidebook, what this version does with it, and",
        "the test that shows it. *refused*: it is read and checked, and then declined in one line.",
        "*ignored*: accepted for libvirt, without effect.",
        "`make check-guidebook` fails when a property has no row, a row has no test, or what works",
        "is only tested on the command line.", "",
        "| section | option | property | here | test |", "| --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for row in rows():
        name = f"`{row.name}`" if row.name else ""
        lines.append(f"| {row.section} | `{row.flag}` | {name} | {row.state} | {cell(row.test)} |")
    return "\n".join(lines) + "\n"


def roff(text: str) -> str:
    """Text that roff shows as it is."""
    return text.replace("\\", "\\e").replace("-", "\\-")


def manual() -> str:
    """docs/stratovirt.1."""
    head, tail = ((ROOT / f"docs/man-{part}.roff").read_text() for part in ("head", "tail"))
    lines = [head.rstrip()]
    for title, group in SECTIONS.items():
        lines.append(f".SS {title}")
        for entry in group:
            for option in variants(entry):
                lines += [".TP", f".B {roff(usage(option))}", roff(summary(option))]
                for key, field in option.fields.items():
                    default = default_text(field)
                    value = field.kind.allowed + (f"; default {default}" if default else "")
                    lines += [
                        ".RS",
                        ".TP",
                        f".I {roff(key)}",
                        roff(f"{field.help} ({value})"),
                        ".RE",
                    ]
    lines += [".SS Without effect", roff(f"{IGNORED_TEXT}: {', '.join(IGNORED)}.")]
    return "\n".join([*lines, tail])


FILES = {
    "docs/reference.md": reference,
    "docs/guidebook.md": guidebook,
    "docs/rooms.md": rooms.page,
    "docs/stratovirt.1": manual,
}


def main() -> int:
    """Write the files, or say which are stale."""
    stale = [name for name, text in FILES.items() if _content(name) != text()]
    if "--check" in sys.argv:
        for name in stale:
            print(f"{name} is stale; run 'make docs'", file=sys.stderr)
        return 1 if stale else 0
    for name in stale:
        (ROOT / name).write_text(FILES[name]())
        print(f"wrote {name}")
    return 0


def _content(name: str) -> str:
    path = ROOT / name
    return path.read_text() if path.exists() else ""


if __name__ == "__main__":
    sys.exit(main())
