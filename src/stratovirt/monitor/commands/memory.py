"""Queries of guest memory."""

from __future__ import annotations

from stratovirt.config.kinds import Choice, Integer
from stratovirt.config.options import Options, opt
from stratovirt.monitor.later import Later
from stratovirt.monitor.registry import NoArguments, command
from stratovirt.monitor.schema import Enum, ListOf, Struct
from stratovirt.qmp.errors import QmpError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stratovirt.monitor.session import Session

MEMORY_DEVICE = Struct("MemoryDeviceInfo", {"type": "str"})
MEMORY_RANGE = Struct("MemoryRange", {"gpa": "int", "size": "int", "name": "str", "node": "int"})
MEASURE_MODES = "page-sampling", "dirty-ring", "dirty-bitmap"
SAMPLING, _, BITMAP = MEASURE_MODES
DIRTY_RATE_INFO = Struct(
    "DirtyRateInfo",
    {
        "dirty-rate?": "int",
        "status": Enum("DirtyRateStatus", "unstarted", "measuring", "measured"),
        "start-time": "int", "calc-time": "int", "sample-pages": "int",
        "mode": Enum("DirtyRateMeasureMode", *MEASURE_MODES),
    },
)  # fmt: skip


class Address(Integer):
    """A guest physical address, as text hexadecimal with or without 0x."""

    def __init__(self) -> None:
        super().__init__(0, (1 << 64) - 1)
        self.allowed = "a guest physical address in hexadecimal"

    def parse(self, text: str) -> int:
        """The address."""
        return super().parse(text if text[:2] in ("0x", "0X") else f"0x{text}")


class GpaArguments(Options):
    """Arguments that name a guest physical address."""

    gpa: int = opt(Address(), help="guest physical address in hexadecimal")


class CalcDirtyRate(Options):
    """Arguments of a measurement."""

    calc_time: int = opt(Integer(1, 60), help="seconds it takes")
    mode: str = opt(
        Choice(*MEASURE_MODES), default=SAMPLING, help="must be dirty-bitmap; others are refused"
    )
    sample_pages: int | None = opt(
        Integer(1, (1 << 63) - 1), default=None, help="ignored, as QEMU does but for page-sampling"
    )


@command("query-mem", answer=ListOf(MEMORY_RANGE))
def query_mem(session: Session, _arguments: NoArguments) -> object:
    """List the machine's RAM by guest physical address, with its NUMA node."""
    return [
        {"gpa": p.gpa, "size": p.size, "name": f"ram@0x{p.gpa:x}", "node": p.node}
        for p in session.vm.machine.ram_pieces
    ]


@command("query-memory-devices", answer=ListOf(MEMORY_DEVICE))
def query_memory_devices(_session: Session, _arguments: NoArguments) -> object:
    """List the memory devices (DIMMs that can be plugged); this VMM has none."""
    return []


@command("query-mem-gpa", GpaArguments, answer="str")
def query_mem_gpa(session: Session, arguments: GpaArguments) -> object:
    """Read 32 bits of guest memory, little endian."""
    try:
        content = session.vm.machine.read_memory(arguments.gpa, 4)
    except ValueError as error:
        raise QmpError(f"query-mem-gpa: no RAM at 0x{arguments.gpa:x}") from error
    return f"0x{int.from_bytes(content, 'little'):x}"


@command("calc-dirty-rate", CalcDirtyRate)
def calc_dirty_rate(session: Session, arguments: CalcDirtyRate) -> object:
    """Measure how much memory the machine writes; query-dirty-rate tells when it is known."""
    if arguments.mode != BITMAP:
        raise QmpError(f"calc-dirty-rate: mode={arguments.mode} is not available; use {BITMAP}")
    machine = session.vm.machine
    rate = machine.begin_dirty_rate()

    def measure(waited: Callable[[], None]) -> object:
        rate.measure(waited, arguments.calc_time)
        machine.dirty_rate = rate
        return {}

    # A vhost-user back end is asked to log, and may be silent for seconds.
    return Later(rate.wait, measure)


@command("query-dirty-rate", answer=DIRTY_RATE_INFO)
def query_dirty_rate(session: Session, _arguments: NoArguments) -> object:
    """Say the dirty rate that was measured last, in MiB a second."""
    rate = session.vm.machine.dirty_rate
    info: dict[str, object] = {
        "status": "unstarted", "start-time": 0, "calc-time": 0, "sample-pages": 0, "mode": BITMAP,
    }  # fmt: skip
    if rate is None:
        return info
    info |= {"status": rate.status, "start-time": rate.start_s, "calc-time": rate.duration_s}
    if rate.rate_mib is not None:
        info["dirty-rate"] = rate.rate_mib
    return info
