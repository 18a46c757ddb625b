"""A device that cannot be made leaves nothing open, and a back end that it was to have is free."""

import _thread
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stratovirt._native.guest_memory import GuestMemory
from stratovirt.block.image import Image
from stratovirt.config.command_line import parse_command_line
from stratovirt.config.drive import Drive
from stratovirt.config.registry import HOT_DRIVERS
from stratovirt.devices.device_host import DeviceHost
from stratovirt.host.access import HostAccess
from stratovirt.hotplug import virtio_blk as hot_blk
from stratovirt.hotplug import virtio_net as hot_net
from stratovirt.machine.inventory import Inventory
from stratovirt.machine.pci_devices import PciDevices
from stratovirt.machine.pci_hotplug import PciHotPlug
from stratovirt.net import tap_back_end
from stratovirt.runtime.clock import VirtualClock
from stratovirt.runtime.loop import Loop
from stratovirt.runtime.process import Process
from stratovirt.vfio import container, function
from stratovirt.virtio import blk

MakeHost = Callable[..., DeviceHost]
START = ["-kernel", "/k", "-accel", "test", "-mod-test", "/t"]
NO_MORE = OSError(errno.EMFILE, os.strerror(errno.EMFILE))


class Tap:
    """Stands for a tap back end."""

    pairs = 1
    uses_kernel_interrupts = False
    made: "list[Tap]" = []

    def __init__(self, netdev: Any, *_host: object, **_vhost: object) -> None:
        self.netdev, self.is_closed = netdev, False
        self.made.append(self)

    def close(self) -> None:
        """Record it."""
        self.is_closed = True


@pytest.fixture
def disk_file(tmp_path: Path) -> Path:
    (tmp_path / "disk").write_bytes(bytes(1 << 16))
    return tmp_path / "disk"


@pytest.fixture
def make_host() -> Iterator[MakeHost]:
    """A function that makes the host of a command line's devices."""
    loop = Loop(_thread.RLock())

    def make(*argv: str) -> DeviceHost:
        return DeviceHost(
            process=Process(), config=parse_command_line([*START, *argv]), loop=loop,
            clock=VirtualClock(), memory=GuestMemory(), iothreads={},
            open_chardev=lambda _name: pytest.fail("it has no chardev"),
            send_event=lambda _name, _content: None, access=HostAccess(),
        )  # fmt: skip

    yield make
    loop.close()


def run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the process has as many descriptors as it may have."""

    def eventfd(*_arguments: object) -> int:
        raise NO_MORE

    monkeypatch.setattr(os, "eventfd", eventfd)


def make_first(host: DeviceHost) -> object:
    options = host.config.devices[0]
    made: object = options.driver.make(options, host)
    return made


def is_open(path: Path) -> bool:
    fds = Path("/proc/self/fd").iterdir()
    return path in [Path(os.readlink(fd)) for fd in fds if fd.is_symlink()]


def test_a_disk_of_the_command_line_closes_its_image(
    make_host: MakeHost, disk_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive = ("-drive", f"id=d,file={disk_file},direct=off")
    host = make_host(*drive, "-device", "virtio-blk-device,drive=d")
    run_out(monkeypatch)
    with pytest.raises(OSError, match="Too many open files"):
        make_first(host)
    assert not is_open(disk_file)


def test_a_card_of_the_command_line_closes_its_back_end(
    make_host: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tap_back_end, "TapBackEnd", Tap)
    host = make_host("-netdev", "tap,id=n,ifname=t", "-device", "virtio-net-device,netdev=n")
    run_out(monkeypatch)
    with pytest.raises(OSError, match="Too many open files"):
        make_first(host)
    assert Tap.made.pop().is_closed


def test_a_back_end_of_a_device_that_cannot_be_added_is_free(
    make_host: MakeHost, disk_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = make_host()
    inventory = Inventory(host.config)
    hot_plug: Any = SimpleNamespace(host=host, inventory=inventory, iothread=lambda _name: None)
    image, card = Image(Drive(id="n", file=str(disk_file), direct=False), host.access), Tap(None)
    inventory.nodes.add("n", image)
    inventory.netdevs.add("n", card)  # type: ignore[arg-type]
    run_out(monkeypatch)
    for plug, driver in ((hot_blk.plug, "virtio-blk-pci"), (hot_net.plug, "virtio-net-pci")):
        arguments = {"driver": driver, "id": "n", "bus": "p"}
        with pytest.raises(OSError, match="Too many open files"):
            plug(HOT_DRIVERS.from_json(arguments, "device_add"), hot_plug)
    assert [*inventory.nodes.free, *inventory.netdevs.free] == [image, card]
    inventory.close()
    assert card.is_closed and not is_open(disk_file)


def test_a_device_that_cannot_be_attached_is_closed_and_its_back_end_is_free(
    make_host: MakeHost, disk_file: Path
) -> None:
    host = make_host()
    inventory = Inventory(host.config)
    image = Image(Drive(id="n", file=str(disk_file), direct=False), host.access)
    inventory.nodes.add("n", image)
    bus = SimpleNamespace(check_place=lambda *_place, **_more: None)
    port = SimpleNamespace(secondary=bus)
    closed: list[object] = []

    class Devices:
        """Buses that carry any device and attach none."""

        def bus(self, _options: object) -> object:
            return bus

        def carry(self, device: Any, _bus: object, _vectors: object) -> object:
            close = device.close
            device.close = lambda: closed.append(close())
            return device

        def attach(self, *_arguments: object) -> None:
            raise NO_MORE

        def release(self, function: object) -> object:
            return function

    pci: Any = SimpleNamespace(root_ports=[port], root=None)
    devices: Any = Devices()
    arguments = {"driver": "virtio-blk-pci", "id": "n", "bus": "p"}
    with pytest.raises(OSError, match="Too many open files"):
        PciHotPlug(host, inventory, pci, devices).plug(
            HOT_DRIVERS.from_json(arguments, "device_add")
        )
    assert len(closed) == 1 and inventory.nodes.free == [image]
    assert inventory.devices.get("n") is None
    inventory.close()
    assert not is_open(disk_file)


def test_a_function_of_the_host_is_left(
    make_host: MakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[object] = []
    device = SimpleNamespace(close=lambda: left.append("device"))

    class Groups:
        def __init__(self, *_arguments: object) -> None: ...

        def open_device(self, _address: str, _source: str) -> tuple[object, str]:
            return device, "7"

        def leave(self, group: str) -> None:
            left.append(group)

    def fail(*_arguments: object) -> None:
        raise ValueError("a capability list without an end")

    monkeypatch.setattr(container, "VfioContainer", Groups)
    monkeypatch.setattr(function, "VfioFunction", fail)
    host = make_host()
    pci: Any = SimpleNamespace(memory=None, root_ports=[])
    devices = PciDevices(pci, host, None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="without an end"):
        devices.pass_through("0000:00:01.0", "v", "-device vfio-pci")
    assert left == ["device", "7"]


def test_a_disk_whose_engine_cannot_be_made_needs_a_reset(
    make_host: MakeHost, disk_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive = ("-drive", f"id=d,file={disk_file},direct=off")
    host = make_host(*drive, "-device", "virtio-blk-device,drive=d")
    disk: Any = make_first(host)
    reasons: list[str] = []
    disk.broken = reasons.append

    def fail(*_arguments: object, **_options: object) -> None:
        raise NO_MORE

    monkeypatch.setattr(blk, "BlockEngine", fail)
    monkeypatch.setattr(blk, "BlockQueue", lambda *_queue: None)
    disk.activate([SimpleNamespace(ring=None, kick_fd=-1, notifier=None)], 0)
    assert reasons == [str(NO_MORE)]
    disk.deactivate()
    disk.close()
    assert not is_open(disk_file)
