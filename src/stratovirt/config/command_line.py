"""argv to VmConfig, and the help text: both come from the option definitions."""

from __future__ import annotations

from stratovirt.config.devices import CHARDEVS, Chardev, Drive, Qmp, VirtioBlk
from stratovirt.config.errors import ConfigError
from stratovirt.config.keyval import split
from stratovirt.config.kinds import SOCKET_PATH_LONGEST, Identifier, PathName, one_of
from stratovirt.config.machine import Accel, Cpu, Kernel, Machine, Memory, Name, Smp
from stratovirt.config.vm_config import VmConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

IGNORED_WITH_VALUE = (
    "-overcommit",
    "-uuid",
    "-sandbox",
    "-msg",
    "-rtc",
    "-realtime",
    "-display",
    "-usb",
    "-boot",
)
IGNORED_SWITCHES = ("-no-user-config", "-nodefaults", "-no-shutdown", "-nographic")
"""Options of libvirt's command line that never function (guidebook, chapter 7)."""

DEVICES: dict[str, type[VirtioBlk]] = {"virtio-blk-device": VirtioBlk}


class CommandLine:
    """Reads argv piece by piece into a VmConfig."""

    def __init__(self) -> None:
        self.config = VmConfig()
        self._seen: set[str] = set()
        self._takers: dict[str, Callable[[str], None]] = {
            "-machine": self._machine,
            "-accel": self._accel,
            "-cpu": self._cpu,
            "-smp": self._smp,
            "-m": self._memory,
            "-kernel": self._kernel,
            "-initrd": self._initrd,
            "-append": self._append,
            "-drive": self._drive,
            "-device": self._device,
            "-chardev": self._chardev,
            "-serial": self._serial,
            "-qmp": self._qmp,
            "-mod-test": self._mod_test,
            "-name": self._name,
            "-pidfile": self._pidfile,
        }

    def read(self, argv: list[str]) -> VmConfig:
        """Read all of argv (without the program's name); raises ConfigError."""
        words = list(argv)
        while words:
            flag = words.pop(0)
            if flag.startswith("--"):
                flag = flag[1:]
            if flag == "-D":
                self._log(words)
            elif flag in ("-S", "-disable-seccomp"):
                self.config.start_paused |= flag == "-S"
            elif flag in IGNORED_SWITCHES:
                continue
            elif flag in self._takers or flag in IGNORED_WITH_VALUE:
                if not words:
                    raise ConfigError(f"{flag}: needs a value")
                text = words.pop(0)
                if flag in self._takers:
                    self._takers[flag](text)
            else:
                raise ConfigError(f"{flag}: unknown option; see stratovirt -help")
        self.config.check()
        return self.config

    def _first_time(self, flag: str, text: str) -> None:
        if flag in self._seen:
            raise ConfigError(f"{flag} {text}: given twice")
        self._seen.add(flag)

    def _cpu(self, text: str) -> None:
        self._first_time("-cpu", text)
        Cpu.parse(text)

    def _machine(self, text: str) -> None:
        self._first_time("-machine", text)
        self.config.machine = Machine.parse(text)

    def _accel(self, text: str) -> None:
        self._first_time("-accel", text)
        self.config.accel = Accel.parse(text).accel

    def _smp(self, text: str) -> None:
        self._first_time("-smp", text)
        self.config.smp = Smp.parse(text)

    def _memory(self, text: str) -> None:
        self._first_time("-m", text)
        self.config.memory = Memory.parse(text)

    def _kernel(self, text: str) -> None:
        self._first_time("-kernel", text)
        self.config.kernel = _plain("-kernel", text, Kernel.fields["path"].kind.parse)

    def _initrd(self, text: str) -> None:
        self._first_time("-initrd", text)
        self.config.initrd = _plain("-initrd", text, PathName().parse)

    def _append(self, text: str) -> None:
        self._first_time("-append", text)
        if "\0" in text:
            raise ConfigError("-append: a kernel command line has no NUL characters")
        self.config.append = text

    def _drive(self, text: str) -> None:
        drive = Drive.parse(text)
        if drive.id in self.config.drives:
            raise ConfigError(f"-drive {text}: another drive has the id {drive.id}")
        self.config.drives[drive.id] = drive

    def _device(self, text: str) -> None:
        driver, *properties = split("-device", text)
        key, name = driver
        if key is not None or name not in DEVICES:
            raise ConfigError(
                f"-device {text}: unknown driver '{name}'; known are {one_of(list(DEVICES))}"
            )
        self.config.devices.append(DEVICES[name].from_pairs(properties, f"-device {text}"))

    def _chardev(self, text: str) -> None:
        chardev = _read_chardev("-chardev", text)
        if chardev.id in self.config.chardevs:
            raise ConfigError(f"-chardev {text}: another chardev has the id {chardev.id}")
        self.config.chardevs[chardev.id] = chardev

    def _serial(self, text: str) -> None:
        self._first_time("-serial", text)
        if text.startswith("chardev:"):
            name = text.removeprefix("chardev:")
            self.config.serial_chardev = _plain("-serial", name, Identifier().parse)
        else:
            self.config.serial = _read_chardev("-serial", text, default_id="serial0")

    def _qmp(self, text: str) -> None:
        self._first_time("-qmp", text)
        scheme, colon, rest = text.partition(":")
        if scheme != "unix" or not colon:
            raise ConfigError(f"-qmp {text}: must start with unix:PATH")
        pairs = split("-qmp", rest)
        if pairs[0][0] is None:
            pairs[0] = ("path", pairs[0][1])
        self.config.qmp = Qmp.from_pairs(pairs, f"-qmp {text}")

    def _mod_test(self, text: str) -> None:
        self._first_time("-mod-test", text)
        path = text.removeprefix("unix:")
        self.config.mod_test = _plain("-mod-test", path, PathName(SOCKET_PATH_LONGEST).parse)

    def _name(self, text: str) -> None:
        self._first_time("-name", text)
        self.config.name = Name.parse(text).guest

    def _pidfile(self, text: str) -> None:
        self._first_time("-pidfile", text)
        self.config.pidfile = _plain("-pidfile", text, PathName().parse)

    def _log(self, words: list[str]) -> None:
        self._first_time("-D", words[0] if words else "")
        if words and not words[0].startswith("-"):
            self.config.log_file = _plain("-D", words.pop(0), PathName().parse)
        else:
            self.config.log_to_stderr = True


def _plain(flag: str, text: str, parse: Callable[[str], str]) -> str:
    try:
        return parse(text)
    except ValueError as error:
        raise ConfigError(f"{flag} {text}: must be {error}") from None


def _read_chardev(flag: str, text: str, default_id: str | None = None) -> Chardev:
    first, *rest = split(flag, text)
    backend = first[1] if first[0] in (None, "backend") else ""
    if backend not in CHARDEVS:
        raise ConfigError(
            f"{flag} {text}: unknown backend '{backend}'; known are {one_of(list(CHARDEVS))}"
        )
    if default_id is not None:
        rest = [*rest, ("id", default_id)]
    return CHARDEVS[backend].from_pairs(rest, f"{flag} {text}")


def parse_command_line(argv: list[str]) -> VmConfig:
    """The configuration that `argv` (without the program's name) describes."""
    return CommandLine().read(argv)


PLAIN_HELP = (
    ("-initrd PATH", "the initial RAM disk"),
    ("-append TEXT", "the kernel's command line"),
    ("-serial DEV", "the serial port: stdio, pty, socket,..., file,... or chardev:ID"),
    ("-mod-test PATH", "socket of the client that plays the processor (-accel test)"),
    ("-pidfile PATH", "write the process id there; removed on exit"),
    (
        "-D [PATH]",
        "log to PATH, or to stderr; STRATOVIRT_LOG_LEVEL is trace, debug, info, warn "
        "or error (default)",
    ),
    ("-S", "start with the vCPUs stopped; QMP cont runs them"),
    ("-disable-seccomp", "run without the system call filter"),
    ("-version", "print the version"),
    ("-help", "print this text"),
)


def help_text() -> str:
    """The text of ``-help``."""
    lines = ["usage: stratovirt [option]...", ""]
    for option in (
        Machine,
        Accel,
        Cpu,
        Smp,
        Memory,
        Kernel,
        Name,
        Drive,
        *DEVICES.values(),
        *CHARDEVS.values(),
        Qmp,
    ):
        summary = (option.__doc__ or "").splitlines()[0]
        lines.append(f"{option.flag}: {summary}")
        for key, field in option.fields.items():
            mark = " (first word)" if key == option.first else ""
            lines.append(f"    {key:<16} {field.help}{mark}; {field.kind.allowed}")
    lines.append("")
    lines += [f"{flag:<20} {text}" for flag, text in PLAIN_HELP]
    lines += [
        "",
        "Accepted for libvirt and without effect: "
        + ", ".join((*IGNORED_SWITCHES, *IGNORED_WITH_VALUE)),
    ]
    return "\n".join(lines)
