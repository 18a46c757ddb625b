"""virtconsole: a console port of a virtio-serial device."""

from __future__ import annotations

from stratovirt.config.buses import VIRTIO_SERIAL
from stratovirt.config.devices import CONSOLES_MOST
from stratovirt.config.driver import DeviceOptions, Driver
from stratovirt.config.errors import ConfigError
from stratovirt.config.kinds import Identifier, Integer, Reference
from stratovirt.config.options import opt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.machine.board import Board


class Virtconsole(DeviceOptions, flag="-device virtconsole"):
    """A console port of the virtio-serial device: hvc0, hvc1, ... in the guest."""

    chardev: str = opt(Reference("-chardev"), help="id of a -chardev")
    id: str | None = opt(Identifier(), default=None, help="device name")
    nr: int | None = opt(
        Integer(0, CONSOLES_MOST - 1), default=None, help="number of the port: the next, from 0"
    )


def make(options: Virtconsole, board: Board) -> None:
    """Add the port to the last console device; raises ConfigError."""
    from stratovirt.virtio.console import Console

    consoles = [device for device in board.devices if isinstance(device, Console)]
    source = f"{options.flag},chardev={options.chardev}"
    if not consoles:
        from stratovirt.config.registry import name_of

        carrier = name_of(board.bus, provides=VIRTIO_SERIAL)
        raise ConfigError(f"{source}: no -device {carrier} before it carries it")
    name = options.id or options.chardev
    try:
        chardev = board.host.open_chardev(options.chardev)
        consoles[-1].add_port(name, chardev, options.nr)
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from error


DRIVERS = (Driver("virtconsole", Virtconsole, make, bus=VIRTIO_SERIAL),)
