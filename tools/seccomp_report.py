"""The seccomp lists beside the guidebook's numbers, and beside what traced machines called.

    python -m tools.seccomp_report [FOLDER]

FOLDER has what strace wrote of machines (`make seccomp-trace`).  Ends with 1 when a list is longer
than the guidebook's or a machine made a call that is not on it.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from stratovirt.architectures import load, of_this_host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.lockdown.calls import Alternatives, Calls

GUIDEBOOK = {"microvm": 47, "q35": 53}
"""Chapter 4, GNU toolchain."""
FAST = (
    "ioctl", "read", "write", "readv", "writev", "futex", "epoll_wait", "poll", "preadv2",
    "pwritev", "io_uring_enter", "clock_gettime",
)  # fmt: skip
"""What machines call all the time: on the lists, and not traced, since tracing would stop them.

The clock is a call only where the host's own is not to be trusted, as in the lab.
"""
CALL = re.compile(r"^(\d+) +(?:<\.\.\. )?(\w+)(?:\(| resumed>)(.*)$")
CHILD = re.compile(r"\) += (?:\d+ /\* )?(\d+)")
"""The new thread, as strace knows it: in a PID namespace it is not what the call gives back."""
CREATING = ("clone", "clone3", "fork", "vfork")


def calls_behind_the_filter(lines: Sequence[str]) -> Counter[str]:
    """What a machine's threads called from the filter on.

    Other processes of the trace, its broker for one, have no filter.
    """
    process_of = _processes(lines)
    called: Counter[str] = Counter()
    filtered: set[str] = set()
    for line in lines:
        found = CALL.match(line)
        if found is None:
            continue
        pid, name, rest = found.groups()
        process = process_of.get(pid, pid)
        if name == "seccomp" and "SECCOMP_FILTER_FLAG_TSYNC|" in rest and ") = 0" in rest:
            filtered.add(process)
        elif process in filtered and "<... " not in line:
            called[name] += 1
    return called


def _processes(lines: Iterable[str]) -> dict[str, str]:
    """The process of each thread that is not a process's first."""
    process_of: dict[str, str] = {}
    beginning: set[str] = set()
    for line in lines:
        found = CALL.match(line)
        if found is None or found[2] not in CREATING:
            continue
        pid, _, rest = found.groups()
        is_thread = "CLONE_THREAD" in rest or pid in beginning
        child = CHILD.search(rest)
        beginning.discard(pid)
        if is_thread and child is not None:
            process_of[child[1]] = process_of.get(pid, pid)
        elif is_thread:
            beginning.add(pid)
    return process_of


def describe(alternatives: Alternatives) -> str:
    """How far a call is free."""
    if alternatives == [[]]:
        return ""
    return f"{len(alternatives)} values of an argument" if len(alternatives) > 1 else "one argument"


def main() -> int:
    """Print the report."""
    failed = False
    architecture = of_this_host()
    lists: Calls = load(architecture.calls)
    listed: dict[str, Alternatives] = {}
    for name, board in architecture.boards.items():
        calls = lists.of(board, "kvm", ())
        listed |= calls
        most = GUIDEBOOK[name]
        failed |= len(calls) > most
        print(f"{name}, {architecture.name}: {len(calls)} system calls, the guidebook has {most}")
    print(f"declined: {', '.join(lists.declined)}")
    called: Counter[str] = Counter()
    machines = 0
    for path in sorted(Path(sys.argv[1]).iterdir()) if len(sys.argv) > 1 else ():
        calls_of_one = calls_behind_the_filter(path.read_text(errors="replace").splitlines())
        machines += bool(calls_of_one)
        called += calls_of_one
    for name in sorted(listed):
        times = "" if not machines else "always" if name in FAST else str(called[name])
        print(f"    {name:20}{times:>10}  {describe(listed[name])}")
    outside = {
        name: times for name, times in called.items() if name not in {*listed, *lists.declined}
    }
    if machines:
        print(f"{machines} machines traced; calls outside the list: {outside or 'none'}")
    return int(failed or bool(outside))


if __name__ == "__main__":
    sys.exit(main())
