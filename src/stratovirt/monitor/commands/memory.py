"""Guest memory as the host sees it."""

from __future__ import annotations

from stratovirt.config.kinds import Integer
from stratovirt.config.options import Options, opt
from stratovirt.monitor.errors import QmpError
from stratovirt.monitor.registry import NoArguments, command
from stratovirt.monitor.schema import ListOf, Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.monitor.session import Session

MEMORY_RANGE = Struct("MemoryRange", {"gpa": "int", "size": "int", "name": "str", "node": "int"})


class GpaArguments(Options):
    """Where to look."""

    gpa: int = opt(Integer(0, (1 << 64) - 1), help="guest physical address, 0x hexadecimal")


@command("query-mem", answer=ListOf(MEMORY_RANGE))
def query_mem(session: Session, _arguments: NoArguments) -> object:
    """List the machine's RAM by guest physical address, with its NUMA node."""
    return [
        {"gpa": p.gpa, "size": p.size, "name": f"ram@0x{p.gpa:x}", "node": p.node}
        for p in session.vm.machine.ram_pieces
    ]


@command("query-mem-gpa", GpaArguments, answer="str")
def query_mem_gpa(session: Session, arguments: GpaArguments) -> object:
    """Read 32 bits of guest memory, little endian."""
    try:
        content = session.vm.machine.read_memory(arguments.gpa, 4)
    except ValueError as error:
        raise QmpError(f"query-mem-gpa: no RAM at 0x{arguments.gpa:x}") from error
    return f"0x{int.from_bytes(content, 'little'):x}"
