"""All option definitions in reading order: the source of help, manual and introspection."""

from __future__ import annotations

from stratovirt.config import machine, monitor, process
from stratovirt.config.chardev import CHARDEVS
from stratovirt.config.command_line import IGNORED_SWITCHES, IGNORED_WITH_VALUE
from stratovirt.config.drive import Drive, Pflash
from stratovirt.config.kinds import SOCKET_PATH_LONGEST, OnOff, PathName
from stratovirt.config.net import NETDEVS
from stratovirt.config.numa import NUMA
from stratovirt.config.objects import OBJECTS
from stratovirt.config.options import REQUIRED, Family, Options, opt
from stratovirt.config.registry import DRIVERS, GLOBALS, drivers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.config.options import Field


class ModTest(Options, flag="-mod-test", whole="path"):
    """The client that plays the processor under -accel test."""

    path: str = opt(PathName(SOCKET_PATH_LONGEST), help="[unix:]PATH of the socket it listens on")


class Serial(Options, flag="-serial"):
    """The serial port: chardev:ID, or a chardev in short, as stdio or file,path=PATH."""


class Qmp(monitor.Qmp, flag="-qmp"):
    """A QMP monitor on a socket of its own: unix:PATH or tcp:HOST:PORT, and how to serve it."""


class Help(Options, flag="-help"):
    """Print this text."""


class Version(Options, flag="-version"):
    """Print the version."""


SECTIONS: dict[str, tuple[type[Options] | Family, ...]] = {
    "Machine": (
        machine.Machine, machine.Accel, machine.Cpu, machine.Smp, machine.Memory,
        machine.MemPath, machine.MemPrealloc, NUMA, OBJECTS, machine.Kernel, machine.Initrd,
        machine.Append, GLOBALS,
    ),
    "Devices": (Drive, Pflash, NETDEVS, DRIVERS, CHARDEVS, Serial),
    "Monitor": (Qmp, monitor.Mon),
    "Process": (
        process.Name, process.MachineUuid, process.Paused, process.Daemonize, process.Pidfile,
        process.LogFile, process.Trace, process.Incoming, process.DisableSeccomp, ModTest, Help,
        Version,
    ),
}  # fmt: skip

IGNORED = tuple(sorted((*IGNORED_SWITCHES, *IGNORED_WITH_VALUE)))
IGNORED_TEXT = "Accepted for libvirt and without effect"


def definitions(*, may_import: bool = True) -> list[type[Options]]:
    """Every definition, those of a family one by one; of drivers those that `drivers` lists."""
    found: list[type[Options]] = []
    for group in SECTIONS.values():
        for entry in group:
            if entry is DRIVERS:
                found += [driver.options for driver in drivers(may_import=may_import)]
            else:
                found += entry.variants.values() if isinstance(entry, Family) else [entry]
    return found


def summary(option: type[Options]) -> str:
    """The first line of the definition's text."""
    return (option.__doc__ or "").splitlines()[0]


def usage(option: type[Options]) -> str:
    """The option's syntax: ``-smp [cpus=]CPUS[,maxcpus=MAXCPUS]``."""
    if not option.fields:
        return option.flag
    if option.whole is not None:
        return f"{option.flag} {option.whole.upper()}"
    pieces = ""
    for key, field in option.fields.items():
        word = f"{key}={placeholder(field)}"
        if key == option.first:
            word = f"[{key}=]{placeholder(field)}"
        separator = "," if pieces or " " in option.flag else ""
        required = field.default is REQUIRED or key == option.first
        pieces += f"{separator}{word}" if required else f"[{separator}{word}]"
    return f"{option.flag}{'' if ' ' in option.flag else ' '}{pieces}"


def placeholder(field: Field) -> str:
    """The placeholder of a value: its words, or its name in capitals."""
    if isinstance(field.kind, OnOff):
        return "on|off"
    words = getattr(field.kind, "words", None)
    return "|".join(words) if words else field.key.upper().rpartition(".")[2]


def default_text(field: Field) -> str:
    """The default as the user would write it; empty without one."""
    value = field.default
    if value is REQUIRED or value is None or value == ():
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    if field.kind.json_type == "size":
        from stratovirt.config.kinds import size_text

        return size_text(value)
    return str(value)


def help_text() -> str:
    """The text of ``-help``."""
    lines = ["usage: stratovirt [option]..."]
    for title, group in SECTIONS.items():
        lines += ["", f"{title}:"]
        for entry in group:
            for option in entry.variants.values() if isinstance(entry, Family) else [entry]:
                lines += _help_of(option)
    return "\n".join([*lines, "", f"{IGNORED_TEXT}: {', '.join(IGNORED)}"])


def _help_of(option: type[Options]) -> list[str]:
    lines = [f"  {option.flag}", f"      {summary(option)}"]
    for key, field in option.fields.items():
        marks = [field.kind.allowed]
        if default := default_text(field):
            marks.append(f"default {default}")
        if key == option.first:
            marks.append("may come first without its name")
        lines.append(f"      {key:<16} {field.help}; {', '.join(marks)}")
    return lines
