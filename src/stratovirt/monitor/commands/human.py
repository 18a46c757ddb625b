"""human-monitor-command: the text commands that management tools still send."""

from __future__ import annotations

from stratovirt import __version__
from stratovirt.config.kinds import Text
from stratovirt.config.options import Options, opt
from stratovirt.monitor.registry import command
from stratovirt.monitor.session import QEMU_VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stratovirt.monitor.session import Session
    from stratovirt.vm import Vm


class HumanArguments(Options):
    """Arguments of human-monitor-command."""

    command_line: str = opt(Text(longest=4096), help="a line of the human monitor")


def _version(_vm: Vm) -> str:
    numbers = ".".join(str(number) for number in QEMU_VERSION.values())
    return f"{numbers} (StratoVirt-{__version__})"


def _status(vm: Vm) -> str:
    return f"VM status: {vm.status}"


def _name(vm: Vm) -> str:
    return (vm.config.name.guest or "") if vm.config.name else ""


def _kvm(vm: Vm) -> str:
    return f"kvm support: {'enabled' if vm.config.accel == 'kvm' else 'disabled'}"


def _cpus(vm: Vm) -> str:
    present = [slot for slot in vm.machine.cpus if slot.is_present]
    lines = [f"  CPU #{slot.index}: thread_id={slot.thread_id}" for slot in present]
    return "\r\n".join(lines)


INFO: dict[str, Callable[[Vm], str]] = {
    "version": _version,
    "status": _status,
    "name": _name,
    "kvm": _kvm,
    "cpus": _cpus,
}


@command("human-monitor-command", HumanArguments, answer="str")
def human_monitor_command(session: Session, arguments: HumanArguments) -> object:
    """Answer as the human monitor would; unknown lines get its kind of answer too."""
    words = arguments.command_line.split()
    if words[:1] == ["info"] and len(words) == 2 and words[1] in INFO:
        return INFO[words[1]](session.vm) + "\r\n"
    if words[:1] in (["info"], ["help"]):
        return "".join(f"info {topic}\r\n" for topic in INFO)
    return f"unknown command: '{words[0] if words else ''}'\r\n"
