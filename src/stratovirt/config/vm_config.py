"""Everything the user asked for, checked against itself."""

from __future__ import annotations

from types import MappingProxyType

from stratovirt.architectures import NO_BOARD
from stratovirt.config.errors import ConfigError
from stratovirt.config.kinds import Reference
from stratovirt.config.machine import Machine, Memory, Smp
from stratovirt.config.options import Options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any, NoReturn

    from stratovirt.config.chardev import Chardev
    from stratovirt.config.drive import Drive, Pflash
    from stratovirt.config.driver import DeviceOptions
    from stratovirt.config.numa import NumaDistance, NumaNode
    from stratovirt.config.process import Name

STDIO = "-chardev stdio"
MEMORY_BACKEND = "-object memory-backend"
IOTHREAD = "-object iothread"


NOTHING: Mapping[str, Any] = MappingProxyType({})


class Frozen:
    """Base of what stays as the user wrote it: nothing is set or deleted once `freeze` was called.

    Values are immutable themselves: options, tuples and read-only mappings.
    """

    _is_frozen = False

    def freeze(self) -> None:
        """Refuse changes from now on."""
        self._is_frozen = True

    def __setattr__(self, name: str, value: object) -> None:
        """Set a field that is not frozen; raises AttributeError."""
        if self._is_frozen:
            self._refuse(name)
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> NoReturn:
        """Raises AttributeError: no field ever goes."""
        self._refuse(name)

    def _refuse(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__}.{name} is immutable")


class MonitorConfig(Frozen):
    """A monitor: the chardev it speaks through, and `source`, the option that asked for it."""

    def __init__(
        self,
        source: str,
        *,
        chardev: Chardev | None = None,
        chardev_id: str = "",
        pretty: bool = False,
    ) -> None:
        self.source, self.chardev = source, chardev
        self.chardev_id, self.pretty = chardev_id, pretty
        self.freeze()


class VmConfig(Frozen):
    """A whole machine's configuration.

    `check` resolves the references between options, and `freeze` ends all changes.
    """

    def __init__(self) -> None:
        self.machine = Machine()
        self.accel: str | None = None
        self.smp = Smp()
        self.memory = Memory()
        self.mem_path: str | None = None
        self.mem_prealloc = False
        self.cpu = "host"
        self.kernel: str | None = None
        self.initrd: str | None = None
        self.append = ""
        self.uuid = bytes(16)
        self.globals: tuple[DeviceOptions, ...] = ()
        self.numa_nodes: tuple[NumaNode, ...] = ()
        self.numa_distances: tuple[NumaDistance, ...] = ()
        self.objects: Mapping[str, Any] = NOTHING
        self.drives: Mapping[str, Drive] = NOTHING
        self.flashes: tuple[Pflash, ...] = ()
        self.netdevs: Mapping[str, Any] = NOTHING
        self.devices: tuple[Any, ...] = ()
        self.chardevs: Mapping[str, Chardev] = NOTHING
        self.serial: Chardev | None = None
        self.serial_chardev: str | None = None
        self.monitors: tuple[MonitorConfig, ...] = ()
        self.mod_test: str | None = None
        self.incoming: str | None = None
        self.name: Name | None = None
        self.pidfile: str | None = None
        self.log_file: str | None = None
        self.log_to_stderr = False
        self.trace_events: tuple[str, ...] = ()
        self.daemonize = False
        self.start_paused = False
        self.seccomp = True

    @property
    def needs_broker(self) -> bool:
        """Whether anything may have to be opened while the machine runs, or removed at its end."""
        chardevs = [*self.chardevs.values(), *([self.serial] if self.serial else [])]
        return bool(
            self.monitors
            or self.pidfile is not None
            or any(chardev.flag == "-chardev socket" for chardev in chardevs)
        )

    @property
    def is_silent(self) -> bool:
        """Whether a guest could neither be heard nor managed."""
        from stratovirt.config.buses import VIRTIO_SERIAL

        has_console = any(device.driver.bus == VIRTIO_SERIAL for device in self.devices)
        is_led = self.machine.type == NO_BOARD or self.accel == "test"
        return not (self.serial or self.monitors or has_console or is_led)

    @property
    def wants_log(self) -> bool:
        """Whether -D was given."""
        return self.log_to_stderr or self.log_file is not None

    @property
    def has_hot_replace(self) -> bool:
        """Whether a microvm has devices that a manager can fill and empty."""
        return bool(self.monitors) and self.machine.hot_replace

    def check(self) -> None:
        """Raise ConfigError for options that contradict each other or name what is not there."""
        self._check_accel()
        self._check_references()
        self._check_standard_streams()
        if self.machine.type == NO_BOARD:
            self._check_no_machine()
        else:
            self._check_board()

    def _check_accel(self) -> None:
        accel = self.accel or self.machine.accel or "kvm"
        if self.accel and self.machine.accel and self.accel != self.machine.accel:
            raise ConfigError(f"-accel {self.accel}: -machine says accel={self.machine.accel}")
        self.accel = accel
        if accel == "test" and self.mod_test is None:
            raise ConfigError("-accel test: needs -mod-test PATH, the socket of the test client")
        if accel != "test" and self.mod_test is not None:
            raise ConfigError(f"-mod-test {self.mod_test}: needs -accel test")

    def _check_no_machine(self) -> None:
        given = {
            "-kernel": self.kernel,
            "-initrd": self.initrd,
            "-append": self.append,
            "-device": self.devices,
            "-drive": [*self.drives, *self.flashes],
            "-netdev": self.netdevs,
            "-numa": self.numa_nodes,
            "-serial": self.serial,
            "-incoming": self.incoming,
            "-mod-test": self.mod_test,
        }
        for flag, value in given.items():
            if value:
                raise ConfigError(f"{flag}: -machine none has no guest that could use it")

    def _check_board(self) -> None:
        if self.kernel is None:
            for flag, value in (("-initrd", self.initrd), ("-append", self.append)):
                if value:
                    raise ConfigError(f"{flag} {value}: needs -kernel PATH")
        names: set[str] = set()
        for device in self.devices:
            if device.id is not None and device.id in names:
                raise ConfigError(f"{device.flag},id={device.id}: another device has this id")
            names.add(device.id)
        found: set[str] = set()
        for device in self.devices:
            noun = device.driver.noun_of_only
            if noun in found:
                raise ConfigError(f"{device.flag}: a machine has one {noun} device")
            if noun:
                found.add(noun)

    def _check_references(self) -> None:
        owners: dict[tuple[str, str], str] = {}
        for source, kind, name in self._references():
            if name not in self._named_by(kind.flag):
                raise ConfigError(f"{source}: no {kind.flag} has this id")
            if not kind.shared and (kind.flag, name) in owners:
                raise ConfigError(f"{source}: {owners[kind.flag, name]} uses it already")
            owners[kind.flag, name] = source
        if self.serial_chardev is not None:
            self.serial = self.chardevs[self.serial_chardev]
        self.monitors = tuple(self._with_chardev(monitor) for monitor in self.monitors)
        self._check_used(owners)

    def _with_chardev(self, monitor: MonitorConfig) -> MonitorConfig:
        if monitor.chardev is not None:
            return monitor
        return MonitorConfig(
            monitor.source,
            chardev=self.chardevs[monitor.chardev_id],
            chardev_id=monitor.chardev_id,
            pretty=monitor.pretty,
        )

    def _check_used(self, owners: Iterable[tuple[str, str]]) -> None:
        """Refuse unused back ends, unless a device that names them may be added later."""
        made = [self.chardevs, self.objects, self.drives, self.netdevs]
        for thing in (thing for things in made for thing in things.values()):
            if any(n == thing.id and thing.flag.startswith(flag) for flag, n in owners):
                continue
            if thing.flag == IOTHREAD and self.monitors:
                continue
            user = "-numa node" if thing.flag.startswith(MEMORY_BACKEND) else "-device"
            user = "device" if thing.flag.startswith("-chardev") else user
            source = f"{thing.flag}{',' if ' ' in thing.flag else ' '}id={thing.id}"
            raise ConfigError(f"{source}: no {user} uses it")

    def _references(self) -> Iterable[tuple[str, Reference, str]]:
        """(source, kind, id) of all that one option says of another."""
        users: list[Options] = [*self.devices, *self.netdevs.values(), *self.numa_nodes]
        for user in users:
            for key, field in user.fields.items():
                name = getattr(user, field.name)
                if isinstance(field.kind, Reference) and name is not None:
                    yield f"{user.flag},{key}={name}", field.kind, name
        chardev = Reference("-chardev")
        if self.serial_chardev is not None:
            yield f"-serial chardev:{self.serial_chardev}", chardev, self.serial_chardev
        for monitor in self.monitors:
            if monitor.chardev is None:
                yield monitor.source, chardev, monitor.chardev_id

    def _named_by(self, flag: str) -> Iterable[str]:
        """The ids that `flag` defines."""
        if flag.startswith("-object"):
            return [n for n, thing in self.objects.items() if thing.flag.startswith(flag)]
        named: dict[str, Iterable[str]] = {
            "-drive": self.drives,
            "-netdev": self.netdevs,
            "-chardev": self.chardevs,
        }
        return named[flag]

    def _check_standard_streams(self) -> None:
        used = [chardev for chardev in self.used_chardevs() if chardev.flag == STDIO]
        if len(used) > 1:
            raise ConfigError(f"{STDIO},id={used[1].id}: {used[0].id} has the standard streams")
        if self.daemonize:
            if used:
                raise ConfigError(
                    f"-daemonize: a daemon has no streams for {STDIO},id={used[0].id}"
                )
            if self.log_to_stderr:
                raise ConfigError("-daemonize: a daemon has no stderr for -D; give -D PATH")

    def used_chardevs(self) -> list[Chardev]:
        """Every chardev that something uses."""
        used = list(self.chardevs.values())
        if self.serial is not None and self.serial_chardev is None:
            used.append(self.serial)
        return used + [m.chardev for m in self.monitors if m.chardev and not m.chardev_id]
