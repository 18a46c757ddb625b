"""What parses and is checked but has no working part behind it yet: refused, never ignored."""

from __future__ import annotations

from stratovirt.config.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.config.vm_config import VmConfig

BUILT_BOARDS = ("microvm", "none")
MMIO_DRIVERS = (
    "-device virtio-blk-device",
    "-device virtio-net-device",
    "-device virtio-serial-device",
    "-device vhost-vsock-device",
    "-device virtio-balloon-device",
    "-device virtio-rng-device",
)
BUILT_DRIVERS = (
    "-device virtio-blk-device",
    "-device virtio-net-device",
    "-device virtio-serial-device",
    "-device virtconsole",
    "-device vhost-vsock-device",
    "-device virtio-balloon-device",
    "-device virtio-rng-device",
)


def refuse_what_is_not_built(config: VmConfig) -> None:
    """Raise ConfigError for the first thing that would otherwise be ignored."""
    board = config.machine.type
    if board not in BUILT_BOARDS:
        raise ConfigError(
            f"-machine {board}: this version has the board microvm; {board} is not built yet"
        )
    for device in config.devices:
        _refuse_device(device)
    for flash in config.flashes:
        raise ConfigError(f"-drive if=pflash,unit={flash.unit}: microvm has no flash memory")
    for netdev in config.netdevs.values():
        if netdev.flag != "-netdev tap":
            raise ConfigError(f"{netdev.flag},id={netdev.id}: this back end is not built yet")
    if config.globals:
        raise ConfigError("-global pcie-root-port.fast-unplug: microvm has no PCI bus")


def _refuse_device(device: object) -> None:
    flag: str = device.flag  # type: ignore[attr-defined]
    name = getattr(device, "id", None)
    source = f"{flag},id={name}" if name else flag
    if "bus" in device.fields:  # type: ignore[attr-defined]
        stem = flag.removesuffix("-pci")
        hint = f"; use {stem}-device" if f"{stem}-device" in MMIO_DRIVERS else ""
        raise ConfigError(f"{source}: microvm has no PCI bus{hint}")
    if flag not in BUILT_DRIVERS:
        raise ConfigError(f"{source}: this driver is not built yet")
