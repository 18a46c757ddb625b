"""Board restrictions: options that the chosen board cannot have are refused, never ignored."""

from __future__ import annotations

from stratovirt.architectures import ARCHITECTURES, of_this_host
from stratovirt.config.buses import MMIO, PCI, DeviceId
from stratovirt.config.errors import ConfigError
from stratovirt.config.kinds import all_of, size_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.architectures import BoardRow
    from stratovirt.config.driver import DeviceOptions
    from stratovirt.config.vm_config import VmConfig


def check_board(config: VmConfig) -> None:
    """Raise ConfigError for the first thing that the machine type cannot have."""
    boards = of_this_host().boards
    board = boards.get(config.machine.type)
    if board is None:
        raise ConfigError(_refusal(config.machine.type, boards))
    _check_boot(config, board)
    _check_sizes(config, board)
    for device in config.devices:
        _check_bus(device, board)
    _check_slots(config, board)
    if not board.has_flash:
        for flash in config.flashes:
            raise ConfigError(
                f"-drive if=pflash,unit={flash.unit}: {board.name} has no flash memory"
            )
    if not board.has_pci:
        _check_without_pci(config, board)


def _refusal(machine_type: str, boards: dict[str, BoardRow]) -> str:
    others = [row.name for row in ARCHITECTURES if machine_type in row.boards]
    why = f"is a board of {all_of(others)}" if others else "is not built yet"
    return (
        f"-machine {machine_type}: this version has the boards {all_of(list(boards))}; "
        f"{machine_type} {why}"
    )


def _check_boot(config: VmConfig, board: BoardRow) -> None:
    if config.kernel is not None or config.incoming is not None or config.accel != "kvm":
        return
    if not board.has_flash:
        raise ConfigError(f"-kernel is missing: {board.name} boots a kernel given by -kernel PATH")
    if not config.flashes:
        raise ConfigError(
            f"-machine {board.name}: nothing to boot; give -kernel PATH or "
            "firmware by -drive if=pflash,unit=0,file=PATH"
        )


def _check_sizes(config: VmConfig, board: BoardRow) -> None:
    vcpus, ram = config.smp.maximum, config.memory.size
    if vcpus > board.vcpus_most:
        raise ConfigError(f"-smp {vcpus}: {board.name} has at most {board.vcpus_most} vCPUs")
    if ram > board.ram_most:
        most = size_text(board.ram_most)
        raise ConfigError(f"-m {size_text(ram)}: {board.name} has at most {most} of memory")


def _source(device: DeviceOptions) -> str:
    name = getattr(device, "id", None)
    return f"{device.flag},id={name}" if name else device.flag


def _check_bus(device: DeviceOptions, board: BoardRow) -> None:
    driver = device.driver
    hint = f"; use {driver.twin}" if driver.twin else ""
    if driver.bus == PCI and not board.has_pci:
        raise ConfigError(f"{_source(device)}: {board.name} has no PCI bus{hint}")
    if driver.bus == MMIO and not board.mmio_slots:
        raise ConfigError(f"{_source(device)}: {board.name} has no virtio-mmio slots{hint}")


def _check_slots(config: VmConfig, board: BoardRow) -> None:
    in_slots = [device for device in config.devices if device.driver.bus == MMIO]
    for device in in_slots[board.mmio_slots :]:
        raise ConfigError(
            f"{device.flag}: {board.name} has {board.mmio_slots} virtio slots and all are taken"
        )


def _check_without_pci(config: VmConfig, board: BoardRow) -> None:
    for netdev in config.netdevs.values():
        if netdev.flag != "-netdev tap":
            from stratovirt.config.registry import name_of

            card = name_of(PCI, device_id=DeviceId.NET)
            raise ConfigError(
                f"{netdev.flag},id={netdev.id}: {board.name} has no {card}, which it needs"
            )
    for given in config.globals:
        if given.driver.bus == PCI:
            key = next(iter(given.fields))
            raise ConfigError(f"{given.flag} {key}: {board.name} has no PCI bus")
