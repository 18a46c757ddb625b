"""The inventory: ids of each kind are unique, and a back end is free, used, or closed."""

from typing import Any, cast

import pytest

from stratovirt.block.image import Image
from stratovirt.config.chardev import SocketChardev
from stratovirt.config.command_line import parse_command_line
from stratovirt.config.registry import HOT_DRIVERS
from stratovirt.machine.inventory import HotPlugError, Inventory, NotThereError

ARGV = [
    "-machine", "q35", "-kernel", "/k", "-qmp", "unix:/q,server,nowait",
    "-chardev", "socket,id=s,path=/s", "-netdev", "vhost-user,id=card,chardev=s",
    "-device", "virtio-net-pci,netdev=card,bus=pcie.0,addr=1",
    "-drive", "id=boot,file=/b", "-device", "virtio-blk-pci,drive=boot,id=disk,bus=pcie.0,addr=2",
]  # fmt: skip


class Closable:
    """Stands for an open image."""

    is_closed = False

    def close(self) -> None:
        """Record it."""
        self.is_closed = True


def image() -> Image:
    return cast(Image, Closable())


@pytest.fixture
def inventory() -> Inventory:
    return Inventory(parse_command_line(ARGV))


def hot_disk(name: str, drive: str) -> Any:
    arguments = {"driver": "virtio-blk-pci", "id": name, "bus": "p", "drive": drive}
    return HOT_DRIVERS.from_json(arguments, "device_add")


def test_an_id_is_given_once_for_each_kind(inventory: Inventory) -> None:
    with pytest.raises(HotPlugError, match="blockdev-add: another block node has the name boot"):
        inventory.nodes.check_new("boot")
    with pytest.raises(HotPlugError, match="netdev_add: another netdev has the id card"):
        inventory.netdevs.reserve("card")
    with pytest.raises(HotPlugError, match="chardev-add: another chardev has the id s"):
        inventory.chardevs.add(SocketChardev(id="s", path="/t"))
    with pytest.raises(HotPlugError, match="device_add: another device has the id disk"):
        inventory.devices.check_new("disk")
    inventory.nodes.check_new("card")
    inventory.netdevs.check_new("boot")


def test_a_back_end_of_the_command_line_belongs_to_its_device(inventory: Inventory) -> None:
    for command, take in (
        ("device_add", lambda: inventory.nodes.take("boot", "other")),
        ("blockdev-del", lambda: inventory.nodes.remove("boot")),
    ):
        with pytest.raises(HotPlugError, match=f"{command}: the block node boot is in use by disk"):
            take()
    with pytest.raises(HotPlugError, match="the netdev card is in use by -device virtio-net-pci"):
        inventory.netdevs.remove("card")


def test_a_back_end_closed_with_its_device_can_be_removed_once(inventory: Inventory) -> None:
    device = inventory.devices.get("disk")
    assert device is not None
    inventory.remove_device(device)
    inventory.nodes.check_new("boot")
    inventory.nodes.remove("boot")
    with pytest.raises(NotThereError, match="there is no block node boot"):
        inventory.nodes.remove("boot")


def test_a_removal_forgives_only_the_last_holder_of_a_name(inventory: Inventory) -> None:
    device = inventory.devices.get("disk")
    assert device is not None
    inventory.remove_device(device)
    inventory.nodes.add("boot", image())
    inventory.nodes.remove("boot")
    with pytest.raises(NotThereError, match="there is no block node boot"):
        inventory.nodes.remove("boot")


def test_a_back_end_that_is_given_back_is_free(inventory: Inventory) -> None:
    held = image()
    inventory.nodes.add("n", held)
    assert inventory.nodes.take("n", "d") is held and inventory.nodes.free == []
    inventory.devices.add(hot_disk("d", "n"))
    inventory.nodes.give_back("n", held)
    device = inventory.devices.get("d")
    assert device is not None and device.is_added and device.path == "/machine/peripheral/d"
    inventory.remove_device(device)
    assert inventory.nodes.free == [held] and inventory.devices.get("d") is None
    inventory.close()
    assert cast(Closable, held).is_closed


def test_a_netdev_that_is_coming_has_its_id_already(inventory: Inventory) -> None:
    inventory.netdevs.reserve("n")
    with pytest.raises(HotPlugError, match="another netdev has the id n"):
        inventory.netdevs.check_new("n")
    with pytest.raises(NotThereError, match="there is no netdev n"):
        inventory.netdevs.take("n", "d")
    inventory.netdevs.cancel("n")
    inventory.netdevs.check_new("n")


def test_a_device_without_an_id_keeps_its_path(inventory: Inventory) -> None:
    paths = [device.path for device in inventory.devices]
    assert paths == ["/machine/peripheral-anon/device[0]", "/machine/peripheral/disk"]
    card = inventory.devices.get(paths[0])
    assert card is not None and card.label == "-device virtio-net-pci"
    inventory.remove_device(card)
    inventory.netdevs.remove("card")
    assert [device.path for device in inventory.devices] == paths[1:]


def test_the_configuration_stays_as_it_was() -> None:
    config = parse_command_line(ARGV)
    inventory = Inventory(config)
    for device in list(inventory.devices):
        inventory.remove_device(device)
    inventory.chardevs.add(SocketChardev(id="t", path="/t"))
    assert (*config.drives, *config.netdevs, *config.chardevs) == ("boot", "card", "s")
    assert len(config.devices) == 2
