"""Drivers of other packages: a machine that is locked down changes nothing for the next one."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stratovirt.architectures import of_this_host
from stratovirt.config import registry
from stratovirt.config.command_line import parse_command_line
from stratovirt.config.reference import definitions
from stratovirt.monitor.commands.objects import concrete_types
from stratovirt.runtime.process import Process

MODULE = "odd_drivers_of_a_package"
CODE = """
from stratovirt.config.driver import DeviceOptions, over_mmio_and_pci


class Odd(DeviceOptions):
    \"\"\"An odd device.\"\"\"

    id = None


DRIVERS = over_mmio_and_pci("virtio-odd", Odd, lambda _options, _host: None, device_id=62)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package with a driver is installed."""
    (tmp_path / f"{MODULE}.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "PLUG_INS", registry.Modules(lambda: {"virtio_odd": MODULE}))
    yield
    sys.modules.pop(MODULE, None)


def listed(process: Process) -> set[str]:
    """What a machine's monitor lists."""
    vm: Any = SimpleNamespace(machine=SimpleNamespace(architecture=of_this_host()), process=process)
    flags = {option.flag for option in definitions(may_import=process.may_import_packages)}
    names = set(concrete_types(vm))
    assert {f"-device {name}" for name in names if name.startswith("virtio-")} <= flags
    return names


@pytest.mark.usefixtures("package")
def test_one_locked_down_machine_takes_no_driver_from_another() -> None:
    first, second = Process(), Process()
    first.may_import_packages = False
    assert "virtio-odd-device" not in listed(first) and MODULE not in sys.modules
    argv = ["-kernel", "/k", "-device", "virtio-odd-device"]
    assert parse_command_line(argv).devices[0].driver.name == "virtio-odd-device"
    assert {"virtio-odd-device", "virtio-odd-pci"} <= listed(second)


@pytest.mark.usefixtures("package")
def test_a_locked_down_machine_lists_the_package_of_its_command_line() -> None:
    parse_command_line(["-kernel", "/k", "-device", "virtio-odd-device"])
    process = Process()
    process.may_import_packages = False
    assert "virtio-odd-pci" in listed(process)
