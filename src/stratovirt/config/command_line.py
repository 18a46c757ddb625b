"""argv to VmConfig, by the option definitions."""

from __future__ import annotations

from types import MappingProxyType

from stratovirt.architectures import NO_BOARD
from stratovirt.config.errors import ConfigError
from stratovirt.config.keyval import shown
from stratovirt.config.kinds import SOCKET_PATH_LONGEST, Identifier, PathName
from stratovirt.config.machine import (
    Accel,
    Append,
    Cpu,
    Initrd,
    Kernel,
    Machine,
    Memory,
    MemPath,
    Smp,
)
from stratovirt.config.vm_config import MonitorConfig, VmConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

IGNORED_WITH_VALUE = (
    "-overcommit",
    "-sandbox",
    "-msg",
    "-rtc",
    "-realtime",
    "-display",
    "-boot",
)
IGNORED_SWITCHES = ("-no-user-config", "-nodefaults", "-no-shutdown", "-nographic", "-usb")
"""Options of libvirt's command line that never function (guidebook, chapter 7)."""


class CommandLine:
    """Reads argv piece by piece into a VmConfig."""

    def __init__(self) -> None:
        self.config = VmConfig()
        self._seen: set[str] = set()

    def read(self, argv: list[str]) -> VmConfig:
        """Read all of argv (without the program's name); raises ConfigError."""
        words = list(argv)
        while words:
            written = words.pop(0)
            # QEMU's users write -option and --option.
            flag = written[1:] if written.startswith("--") else written
            if flag == "-D":
                self._log(words)
            elif flag in _SWITCHES:
                self._once(flag, flag)
                _SWITCHES[flag](self.config)
            elif flag in IGNORED_SWITCHES:
                continue
            elif flag in _TAKERS or flag in IGNORED_WITH_VALUE:
                if not words:
                    raise ConfigError(f"{flag}: needs a value")
                text = words.pop(0)
                if flag in _TAKERS:
                    _TAKERS[flag](self, text)
            else:
                raise ConfigError(f"{shown(written)}: unknown option; see stratovirt -help")
        _check(self.config)
        self.config.freeze()
        return self.config

    def _once(self, flag: str, source: str) -> None:
        if flag in self._seen:
            raise ConfigError(f"{source}: given twice")
        self._seen.add(flag)

    def _machine(self, text: str) -> None:
        self._once("-machine", f"-machine {shown(text)}")
        self.config.machine = Machine.parse(text)

    def _accel(self, text: str) -> None:
        self._once("-accel", f"-accel {shown(text)}")
        self.config.accel = Accel.parse(text).accel

    def _cpu(self, text: str) -> None:
        self._once("-cpu", f"-cpu {shown(text)}")
        self.config.cpu = Cpu.parse(text).model

    def _smp(self, text: str) -> None:
        self._once("-smp", f"-smp {shown(text)}")
        self.config.smp = Smp.parse(text)

    def _memory(self, text: str) -> None:
        self._once("-m", f"-m {shown(text)}")
        self.config.memory = Memory.parse(text)

    def _mem_path(self, text: str) -> None:
        self._once("-mem-path", f"-mem-path {shown(text)}")
        self.config.mem_path = MemPath.parse(text).path

    def _kernel(self, text: str) -> None:
        self._once("-kernel", f"-kernel {shown(text)}")
        self.config.kernel = Kernel.parse(text).path

    def _initrd(self, text: str) -> None:
        self._once("-initrd", f"-initrd {shown(text)}")
        self.config.initrd = Initrd.parse(text).path

    def _append(self, text: str) -> None:
        self._once("-append", f"-append {shown(text)}")
        self.config.append = Append.parse(text).text

    def _global(self, text: str) -> None:
        from stratovirt.config.registry import GLOBALS

        self.config.globals += (GLOBALS.parse(text),)

    def _numa(self, text: str) -> None:
        from stratovirt.config.numa import NUMA, NumaNode

        part = NUMA.parse(text)
        if isinstance(part, NumaNode):
            self.config.numa_nodes += (part,)
        else:
            self.config.numa_distances += (part,)

    def _object(self, text: str) -> None:
        from stratovirt.config.objects import OBJECTS

        self._add("object", OBJECTS.parse(text), text)

    def _drive(self, text: str) -> None:
        from stratovirt.config.drive import Pflash, parse_drive

        drive = parse_drive(text)
        if isinstance(drive, Pflash):
            if any(flash.unit == drive.unit for flash in self.config.flashes):
                raise ConfigError(f"-drive {shown(text)}: another flash has the unit {drive.unit}")
            self.config.flashes += (drive,)
        else:
            self._add("drive", drive, text)

    def _netdev(self, text: str) -> None:
        from stratovirt.config.net import NETDEVS

        self._add("netdev", NETDEVS.parse(text), text)

    def _chardev(self, text: str) -> None:
        from stratovirt.config.chardev import CHARDEVS

        self._add("chardev", CHARDEVS.parse(text), text)

    def _add(self, noun: str, thing: Any, text: str) -> None:
        """Add `thing`, written as `text`, to the configuration's `noun`s by id."""
        things: Mapping[str, Any] = getattr(self.config, f"{noun}s")
        if thing.id in things:
            raise ConfigError(f"-{noun} {shown(text)}: another {noun} has the id {thing.id}")
        setattr(self.config, f"{noun}s", MappingProxyType({**things, thing.id: thing}))

    def _device(self, text: str) -> None:
        from stratovirt.config.registry import DRIVERS

        self.config.devices += (DRIVERS.parse(text),)

    def _serial(self, text: str) -> None:
        self._once("-serial", f"-serial {shown(text)}")
        if text.startswith("chardev:"):
            name = text.removeprefix("chardev:")
            self.config.serial_chardev = _plain("-serial", text, name, Identifier().parse)
        else:
            from stratovirt.config.chardev import CHARDEVS

            self.config.serial = CHARDEVS.parse(text, "-serial", id="serial0")

    def _qmp(self, text: str) -> None:
        from stratovirt.config.monitor import parse_qmp

        self._once("-qmp", f"-qmp {shown(text)}")
        address, chardev = parse_qmp(text)
        self.config.monitors += (MonitorConfig(f"-qmp {address}", chardev=chardev),)

    def _mon(self, text: str) -> None:
        from stratovirt.config.monitor import Mon

        mon = Mon.parse(text)
        source = f"-mon chardev={mon.chardev}"
        self.config.monitors += (MonitorConfig(source, chardev_id=mon.chardev, pretty=mon.pretty),)

    def _mod_test(self, text: str) -> None:
        self._once("-mod-test", f"-mod-test {shown(text)}")
        path = text.removeprefix("unix:")
        self.config.mod_test = _plain("-mod-test", text, path, PathName(SOCKET_PATH_LONGEST).parse)

    def _name(self, text: str) -> None:
        from stratovirt.config.process import Name

        self._once("-name", f"-name {shown(text)}")
        self.config.name = Name.parse(text)

    def _uuid(self, text: str) -> None:
        from stratovirt.config.process import MachineUuid

        self._once("-uuid", f"-uuid {shown(text)}")
        self.config.uuid = MachineUuid.parse(text).uuid

    def _pidfile(self, text: str) -> None:
        from stratovirt.config.process import Pidfile

        self._once("-pidfile", f"-pidfile {shown(text)}")
        self.config.pidfile = Pidfile.parse(text).path

    def _trace(self, text: str) -> None:
        from stratovirt.config.process import Trace

        self.config.trace_events += (Trace.parse(text).events,)

    def _incoming(self, text: str) -> None:
        from stratovirt.config.process import Incoming

        self._once("-incoming", f"-incoming {shown(text)}")
        self.config.incoming = Incoming.parse(text).uri

    def _log(self, words: list[str]) -> None:
        if words and not words[0].startswith("-"):
            from stratovirt.config.process import LogFile

            text = words.pop(0)
            self._once("-D", f"-D {shown(text)}")
            self.config.log_file = LogFile.parse(text).path
        else:
            self._once("-D", "-D")
            self.config.log_to_stderr = True


_TAKERS: dict[str, Callable[[CommandLine, str], None]] = {
    "-machine": CommandLine._machine,
    "-accel": CommandLine._accel,
    "-cpu": CommandLine._cpu,
    "-smp": CommandLine._smp,
    "-m": CommandLine._memory,
    "-mem-path": CommandLine._mem_path,
    "-kernel": CommandLine._kernel,
    "-initrd": CommandLine._initrd,
    "-append": CommandLine._append,
    "-global": CommandLine._global,
    "-numa": CommandLine._numa,
    "-object": CommandLine._object,
    "-drive": CommandLine._drive,
    "-netdev": CommandLine._netdev,
    "-chardev": CommandLine._chardev,
    "-device": CommandLine._device,
    "-serial": CommandLine._serial,
    "-qmp": CommandLine._qmp,
    "-mon": CommandLine._mon,
    "-mod-test": CommandLine._mod_test,
    "-name": CommandLine._name,
    "-uuid": CommandLine._uuid,
    "-pidfile": CommandLine._pidfile,
    "-trace": CommandLine._trace,
    "-incoming": CommandLine._incoming,
}


def _prealloc(config: VmConfig) -> None:
    config.mem_prealloc = True


def _daemonize(config: VmConfig) -> None:
    config.daemonize = True


def _paused(config: VmConfig) -> None:
    config.start_paused = True


def _no_seccomp(config: VmConfig) -> None:
    config.seccomp = False


_SWITCHES: dict[str, Callable[[VmConfig], None]] = {
    "-mem-prealloc": _prealloc,
    "-daemonize": _daemonize,
    "-S": _paused,
    "-disable-seccomp": _no_seccomp,
}


def _plain(flag: str, text: str, value: str, parse: Callable[[str], str]) -> str:
    try:
        return parse(value)
    except ValueError as error:
        raise ConfigError(f"{flag} {shown(text)}: must be {error}") from None


def _check(config: VmConfig) -> None:
    """The rules between options; those of a board and of nodes are loaded when there are any."""
    config.check()
    if config.numa_nodes or config.numa_distances:
        from stratovirt.config.numa_check import check_numa

        check_numa(config)
    if config.machine.type != NO_BOARD:
        from stratovirt.config.board_check import check_board

        check_board(config)


def parse_command_line(argv: list[str]) -> VmConfig:
    """The configuration that `argv` (without the program's name) describes."""
    return CommandLine().read(argv)
