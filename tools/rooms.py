"""docs/rooms.md: each package of stratovirt with its job, and a drawing of who imports whom."""

from __future__ import annotations

from collections import Counter
from importlib import import_module

import grimp

ROOT = "stratovirt"
HEAD = """\
An arrow leads from a room to one whose modules it imports at run time; a double arrow joins rooms
whose modules import each other's (never in a circle of modules: `layers.ini`). An arrow is left
out where a longer way leads to the same room. The rooms `config`, `errors` and `runtime` have no
arrows, since nearly every room imports them."""
EVERYWHERE = {"config", "errors", "runtime"}
OUTSIDE = {ROOT, f"{ROOT}.__main__"}


def imports() -> Counter[tuple[str, str]]:
    """How many imports at run time lead from one room to another."""
    graph = grimp.build_graph(ROOT, cache_dir=None, exclude_type_checking_imports=True)
    return Counter(
        pair
        for module in graph.modules - OUTSIDE
        for other in graph.find_modules_directly_imported_by(module) - OUTSIDE
        if (pair := (module.split(".")[1], other.split(".")[1])) and pair[0] != pair[1]
    )


def arrows(counts: Counter[tuple[str, str]]) -> list[str]:
    """The drawing's arrows, without those that a longer way replaces."""
    shown = {pair: n for pair, n in counts.items() if not EVERYWHERE & set(pair)}
    # Of two rooms that import each other the one that imports more is the upper one.
    down = {(a, b) for (a, b), n in shown.items() if (n, b) > (shown.get((b, a), 0), a)}
    lines = []
    for upper, lower in sorted(down):
        if (lower, upper) in shown:
            lines.append(f"{upper} <--> {lower}")
        elif lower not in _reachable(down - {(upper, lower)}, upper):
            lines.append(f"{upper} --> {lower}")
    return lines


def _reachable(down: set[tuple[str, str]], start: str) -> set[str]:
    seen: set[str] = set()
    waiting = {start}
    while waiting:
        room = waiting.pop()
        seen.add(room)
        waiting |= {lower for upper, lower in down if upper == room} - seen
    return seen


def page() -> str:
    """The whole page."""
    counts = imports()
    lines = ["# Rooms", "", HEAD, "", "```mermaid", "flowchart TD"]
    lines += [f"    {arrow}" for arrow in arrows(counts)]
    lines += ["```", "", "| room | job |", "| --- | --- |"]
    for room in sorted({room for pair in counts for room in pair}):
        text = import_module(f"{ROOT}.{room}").__doc__ or ""
        lines.append(f"| `{room}` | {' '.join(text.split()).replace('``', '`')} |")
    return "\n".join(lines) + "\n"
