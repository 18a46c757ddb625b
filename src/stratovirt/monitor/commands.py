"""The commands: a name, typed arguments and a function each, registered by a decorator."""

from __future__ import annotations

from stratovirt import __version__
from stratovirt.config.options import Options
from stratovirt.monitor.errors import QmpError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from stratovirt.vm import Vm

    CommandFunction = Callable[[Vm, Any], object]

QEMU_VERSION = {"major": 5, "minor": 0, "micro": 1}
"""What management tools are told they talk to; they choose their protocol by it."""


class NoArguments(Options):
    """Takes none."""


class Command:
    """One command: its arguments' definition and what it does."""

    __slots__ = ("arguments", "function", "name")

    def __init__(self, name: str, arguments: type[Options], function: CommandFunction) -> None:
        self.name, self.arguments, self.function = name, arguments, function


COMMANDS: dict[str, Command] = {}


def command(
    name: str,
    arguments: type[Options] = NoArguments,
) -> Callable[[CommandFunction], CommandFunction]:
    """Register the decorated function as QMP command `name`."""

    def register(function: CommandFunction) -> CommandFunction:
        COMMANDS[name] = Command(name, arguments, function)
        return function

    return register


def version() -> dict[str, object]:
    """The version as greeting and query-version report it."""
    return {"qemu": QEMU_VERSION, "package": f"StratoVirt-{__version__}"}


@command("qmp_capabilities")
def qmp_capabilities(_vm: Vm, _arguments: NoArguments) -> object:
    """End capability negotiation; there are none to choose."""
    return {}


@command("query-version")
def query_version(_vm: Vm, _arguments: NoArguments) -> object:
    """Say what answers here."""
    return version()


@command("query-commands")
def query_commands(_vm: Vm, _arguments: NoArguments) -> object:
    """List the commands."""
    return [{"name": name} for name in sorted(COMMANDS)]


@command("query-status")
def query_status(vm: Vm, _arguments: NoArguments) -> object:
    """Say whether the machine runs."""
    return {"running": vm.status == "running", "singlestep": False, "status": vm.status}


@command("query-name")
def query_name(vm: Vm, _arguments: NoArguments) -> object:
    """Say the name that -name gave."""
    return {"name": vm.config.name} if vm.config.name else {}


@command("query-cpus-fast")
def query_cpus_fast(vm: Vm, _arguments: NoArguments) -> object:
    """List the vCPUs with their host threads."""
    topology = vm.config.smp.topology
    found = []
    for index, thread_id in enumerate(vm.vcpu_thread_ids()):
        rest, thread = divmod(index, topology.threads)
        rest, core = divmod(rest, topology.cores)
        socket = rest // (topology.dies * topology.clusters)
        found.append(
            {
                "cpu-index": index,
                "thread-id": thread_id,
                "target": vm.target,
                "props": {"socket-id": socket, "core-id": core, "thread-id": thread},
            }
        )
    return found


@command("stop")
def stop(vm: Vm, _arguments: NoArguments) -> object:
    """Pause the machine: no vCPU runs and no request is in flight when this returns."""
    vm.pause()
    return {}


@command("cont")
def cont(vm: Vm, _arguments: NoArguments) -> object:
    """Run the machine; one that KVM gave up on cannot."""
    if vm.status not in ("prelaunch", "paused", "running"):
        raise QmpError(f"the machine is in state {vm.status} and cannot go on")
    vm.resume()
    return {}


@command("quit")
def quit_(vm: Vm, _arguments: NoArguments) -> object:
    """End the machine and the process."""
    vm.request_shutdown(guest=False, reason="host-qmp-quit")
    return {}
