"""The configuration stays as the user wrote it, whatever a machine does with it."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import pytest

from stratovirt.config.command_line import parse_command_line
from stratovirt.config.options import Options
from stratovirt.config.vm_config import MonitorConfig, VmConfig

ARGV = [
    "-machine", "q35", "-smp", "4", "-m", "1G", "-kernel", "/k", "-initrd", "/i", "-append", "x",
    "-name", "guest=g,process=p", "-pidfile", "/p", "-trace", "events=/t", "-D", "/log", "-S",
    "-global", "pcie-root-port.fast-unplug=1",
    "-object", "memory-backend-ram,id=m0,size=512M,policy=bind,host-nodes=0-1",
    "-object", "memory-backend-ram,id=m1,size=512M", "-object", "iothread,id=io",
    "-object", "rng-random,id=r",
    "-numa", "node,nodeid=0,cpus=0-1,memdev=m0", "-numa", "node,nodeid=1,cpus=2-3,memdev=m1",
    "-numa", "dist,src=0,dst=1,val=20",
    "-device", "pcie-root-port,id=port,bus=pcie.0,addr=1,port=1",
    "-drive", "id=d,file=/d", "-device", "virtio-blk-pci,drive=d,id=b,bus=port,addr=0,iothread=io",
    "-netdev", "tap,id=n,fds=7:8,vhost=on,vhostfds=9:10",
    "-device", "virtio-net-pci,netdev=n,bus=pcie.0,addr=2,mac=52:54:00:00:00:01",
    "-device", "virtio-rng-pci,rng=r,bus=pcie.0,addr=3",
    "-drive", "if=pflash,unit=0,file=/f",
    "-chardev", "socket,id=c,path=/c,server,nowait", "-serial", "chardev:c",
    "-chardev", "socket,id=q,path=/q,server,nowait", "-mon", "chardev=q", "-qmp", "unix:/m,server",
]  # fmt: skip
"""One of everything that a configuration can hold."""


@pytest.fixture(scope="module")
def config() -> VmConfig:
    """A configuration of all kinds of options."""
    return parse_command_line(ARGV)


def holders(config: VmConfig) -> Iterator[object]:
    """The configuration, and all objects, mappings and sequences in it at any depth."""
    waiting: list[object] = [config]
    while waiting:
        thing = waiting.pop()
        yield thing
        if isinstance(thing, VmConfig | MonitorConfig | Options):
            waiting += vars(thing).values()
        elif isinstance(thing, Mapping):
            waiting += thing.values()
        elif isinstance(thing, tuple | list):
            waiting += thing


def test_no_field_can_be_set_or_deleted(config: VmConfig) -> None:
    objects = [
        thing for thing in holders(config) if isinstance(thing, VmConfig | MonitorConfig | Options)
    ]
    kinds = {type(thing).__name__ for thing in objects}
    assert {
        "VmConfig",
        "MonitorConfig",
        "Machine",
        "Drive",
        "Tap",
        "VirtioBlk",
        "EveryRootPort",
    } <= kinds
    for thing in objects:
        for name in [*vars(thing), "something_new"]:
            with pytest.raises(AttributeError, match="immutable"):
                setattr(thing, name, None)
            with pytest.raises(AttributeError, match="immutable"):
                delattr(thing, name)


def test_no_collection_can_be_changed(config: VmConfig) -> None:
    mappings = [thing for thing in holders(config) if isinstance(thing, Mapping)]
    assert len(mappings) == 4 and all(mappings)
    for things in mappings:
        assert isinstance(things, MappingProxyType)
        with pytest.raises(TypeError):
            things["new"] = None  # type: ignore[index]
        with pytest.raises(TypeError):
            del things[next(iter(things))]  # type: ignore[attr-defined]
    changeable = [thing for thing in holders(config) if isinstance(thing, list | set | bytearray)]
    assert not changeable


def test_a_configuration_that_is_still_being_read_can_be_changed() -> None:
    config = VmConfig()
    config.kernel = "/k"
    assert config.kernel == "/k" and parse_command_line(["-kernel", "/k"]).drives == {}
