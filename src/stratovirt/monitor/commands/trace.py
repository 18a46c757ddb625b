"""Query and switching of trace events."""

from __future__ import annotations

from stratovirt.config.kinds import OnOff, Text
from stratovirt.config.options import Options, opt
from stratovirt.monitor.registry import command
from stratovirt.monitor.schema import Enum, ListOf, Struct
from stratovirt.qmp.errors import QmpError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.monitor.session import Session

STATE = Enum("TraceEventState", "unavailable", "disabled", "enabled")
EVENT_INFO = Struct("TraceEventInfo", {"name": "str", "state": STATE})


class TracePattern(Options):
    """Arguments that select trace events."""

    name: str = opt(Text("the name of a trace event, or a pattern", 255), help="name or pattern")


class TraceChange(TracePattern):
    """Arguments that switch trace events on or off."""

    enable: bool = opt(OnOff(), help="whether to trace them")


@command("trace-get-state", TracePattern, answer=ListOf(EVENT_INFO))
def trace_get_state(_session: Session, arguments: TracePattern) -> object:
    """List the events that match."""
    from stratovirt.runtime.trace import matching

    found = matching(arguments.name)
    if not found:
        raise QmpError(f"no trace event is called '{arguments.name}'")
    return [{"name": e.name, "state": "enabled" if e.enabled else "disabled"} for e in found]


@command("trace-set-state", TraceChange)
def trace_set_state(session: Session, arguments: TraceChange) -> object:
    """Switch the events that match on or off."""
    if not session.vm.process.tracing.set_state(arguments.name, enable=arguments.enable):
        raise QmpError(f"no trace event is called '{arguments.name}'")
    return {}
