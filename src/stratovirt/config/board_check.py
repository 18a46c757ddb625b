"""Board restrictions: options that the chosen board cannot have are refused, never ignored."""

from __future__ import annotations

from stratovirt.config.buses import MMIO, PCI
from stratovirt.config.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.config.driver import DeviceOptions
    from stratovirt.config.vm_config import VmConfig

BUILT_BOARDS = ("microvm", "q35", "none")
PCI_BOARDS = ("q35",)


def check_board(config: VmConfig) -> None:
    """Raise ConfigError for the first thing that the machine type cannot have."""
    board = config.machine.type
    if board not in BUILT_BOARDS:
        raise ConfigError(
            f"-machine {board}: this version has the boards microvm and q35; "
            f"{board} is not built yet"
        )
    for device in config.devices:
        _check_bus(device, board)
    if board == "microvm":
        _check_microvm(config)
    elif config.incoming is not None:
        raise ConfigError(f"-incoming {config.incoming}: only microvm can be restored yet")


def _check_microvm(config: VmConfig) -> None:
    for flash in config.flashes:
        raise ConfigError(f"-drive if=pflash,unit={flash.unit}: microvm has no flash memory")
    for netdev in config.netdevs.values():
        if netdev.flag != "-netdev tap":
            raise ConfigError(
                f"{netdev.flag},id={netdev.id}: microvm has no virtio-net-pci, which it needs"
            )
    if config.globals:
        raise ConfigError("-global pcie-root-port.fast-unplug: microvm has no PCI bus")


def _source(device: DeviceOptions) -> str:
    name = getattr(device, "id", None)
    return f"{device.flag},id={name}" if name else device.flag


def _check_bus(device: DeviceOptions, board: str) -> None:
    driver = device.driver
    hint = f"; use {driver.twin}" if driver.twin else ""
    if driver.bus == PCI and board not in PCI_BOARDS:
        raise ConfigError(f"{_source(device)}: {board} has no PCI bus{hint}")
    if driver.bus == MMIO and board in PCI_BOARDS:
        raise ConfigError(f"{_source(device)}: {board} has no virtio-mmio slots{hint}")
