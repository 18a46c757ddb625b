"""Everything the user asked for, checked against itself."""

from __future__ import annotations

from stratovirt.config.devices import Chardev, Drive, Qmp, VirtioBlk
from stratovirt.config.errors import ConfigError
from stratovirt.config.machine import Machine, Memory, Smp


class VmConfig:
    """A whole machine's configuration; `check` resolves the references between options."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.accel: str | None = None
        self.smp = Smp()
        self.memory = Memory()
        self.kernel: str | None = None
        self.initrd: str | None = None
        self.append = ""
        self.drives: dict[str, Drive] = {}
        self.devices: list[VirtioBlk] = []
        self.chardevs: dict[str, Chardev] = {}
        self.serial: Chardev | None = None
        self.serial_chardev: str | None = None
        self.qmp: Qmp | None = None
        self.mod_test: str | None = None
        self.log_file: str | None = None
        self.log_to_stderr = False
        self.name: str | None = None
        self.pidfile: str | None = None
        self.start_paused = False

    def check(self) -> None:
        """Raise ConfigError for options that contradict each other or name what is not there."""
        machine = self.machine
        accel = self.accel or machine.accel or "kvm"
        if self.accel and machine.accel and self.accel != machine.accel:
            raise ConfigError(f"-accel {self.accel}: -machine says accel={machine.accel}")
        self.accel = accel
        if machine.type != "microvm":
            raise ConfigError(
                f"-machine {machine.type}: this version has the board microvm; "
                f"{machine.type} is not built yet"
            )
        if accel == "test" and self.mod_test is None:
            raise ConfigError("-accel test: needs -mod-test PATH, the socket of the test client")
        if accel != "test" and self.mod_test is not None:
            raise ConfigError(f"-mod-test {self.mod_test}: needs -accel test")
        if self.kernel is None:
            for flag, value in (("-initrd", self.initrd), ("-append", self.append)):
                if value:
                    raise ConfigError(f"{flag} {value}: needs -kernel PATH")
            if accel == "kvm":
                raise ConfigError(
                    "-kernel is missing: microvm boots a kernel given by -kernel PATH"
                )
        self._check_serial()
        self._check_drives()
        if self.smp.maximum > self.smp.cpus:
            raise ConfigError(
                f"-smp cpus={self.smp.cpus},maxcpus={self.smp.maximum}: microvm has no vCPU "
                "hotplug; maxcpus must equal cpus"
            )

    def _check_serial(self) -> None:
        if self.serial_chardev is not None:
            if self.serial_chardev not in self.chardevs:
                raise ConfigError(f"-serial chardev:{self.serial_chardev}: no -chardev has this id")
            self.serial = self.chardevs[self.serial_chardev]
        for chardev in self.chardevs.values():
            if chardev is not self.serial:
                raise ConfigError(f"{chardev.flag},id={chardev.id}: no device uses it")

    def _check_drives(self) -> None:
        used: set[str] = set()
        names: set[str] = set()
        for device in self.devices:
            source = f"{device.flag},drive={device.drive}"
            if device.drive not in self.drives:
                raise ConfigError(f"{source}: no -drive has this id")
            if device.drive in used:
                raise ConfigError(f"{source}: another device uses this drive")
            if device.id is not None and device.id in names:
                raise ConfigError(f"{device.flag},id={device.id}: another device has this id")
            used.add(device.drive)
            names.add(device.id or "")
        for name in self.drives:
            if name not in used:
                raise ConfigError(f"-drive id={name}: no -device uses it")
