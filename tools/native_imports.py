"""The contract of layers.ini for Cython's files, which import-linter does not read.

A `.pyx`, `.pxd` or `.pyi` imports, or cimports, only from its own package and from layers below;
modules of these files form no circle; and no module of a lower layer imports one of them.
"""

from __future__ import annotations

import re
import sys
from configparser import ConfigParser
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NATIVE = "stratovirt._native"
CYTHON = (".pyx", ".pxd", ".pyi")
IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+(?P<package>[\w.]+)[ \t]+)?c?import[ \t]+(?P<names>\([^)]*\)|[^\n]+)",
    re.MULTILINE,
)


def layers(contract: Path) -> list[list[str]]:
    """The layers of layers.ini, the top one first, each with the modules that share it."""
    parser = ConfigParser()
    parser.read(contract)
    lines = parser["importlinter:contract:layers"]["layers"].split("\n")
    return [re.findall(r"[\w.]+", line) for line in lines if line]


def level(module: str, order: list[list[str]]) -> int:
    """The layer of a module, 0 for the top; the one of the package that is named for it."""
    while module:
        for number, members in enumerate(order):
            if module in members:
                return number
        module = module.rpartition(".")[0]
    return 0


def imported(path: Path) -> set[str]:
    """The dotted names that a file imports: modules, and what it takes out of them."""
    names = set()
    for match in IMPORT.finditer(path.read_text(encoding="utf-8")):
        package = f"{match['package']}." if match["package"] else ""
        taken = re.findall(r"([\w.]+)(?:[ \t]+as[ \t]+\w+)?", match["names"].partition("#")[0])
        names |= {package + name for name in taken}
    return {name for name in names if name.startswith("stratovirt.")}


def faults(root: Path) -> list[str]:
    """What breaks the contract in the tree at `root`, a line each."""
    order = layers(root / "layers.ini")
    own = level(NATIVE, order)
    found = []
    circle: dict[str, set[str]] = {}
    for path in sorted((root / "src/stratovirt").rglob("*")):
        if path.suffix not in (".py", *CYTHON):
            continue
        place = path.relative_to(root / "src")
        module = ".".join(place.with_suffix("").parts)
        is_native = module.startswith(f"{NATIVE}.")
        for name in sorted(imported(path)):
            if is_native:
                if name.startswith(f"{NATIVE}."):
                    other = ".".join(name.split(".")[:3])
                    circle.setdefault(module, set()).update({other} - {module})
                elif level(name, order) <= own:
                    found.append(f"{place}: {name} is not in a layer below {NATIVE}")
            elif name.startswith(NATIVE) and level(module, order) >= own:
                found.append(f"{place}: {name} is not in a layer below {module}")
    try:
        TopologicalSorter(circle).prepare()
    except CycleError as error:
        found.append(f"a circle: {' - '.join(error.args[1])}")
    return found


def main() -> int:
    """Print the faults; the exit status."""
    found = faults(ROOT)
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
