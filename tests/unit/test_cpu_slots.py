"""The places for vCPUs: -smp and -numa as every reader sees them."""

import pytest

from stratovirt.config.command_line import parse_command_line
from stratovirt.config.vm_config import VmConfig
from stratovirt.cpu.slots import CpuSlots

NODES = [
    "-m", "256M", "-object", "memory-backend-ram,id=a,size=128M",
    "-object", "memory-backend-ram,id=b,size=128M",
    "-numa", "node,memdev=a,cpus=0-1", "-numa", "node,memdev=b,cpus=2-3",
]  # fmt: skip


def config_of(*argv: str) -> VmConfig:
    return parse_command_line(["-machine", "microvm", "-kernel", "/dev/null", *argv])


@pytest.mark.parametrize("argv, nodes", [((), [None] * 4), (NODES, [0, 0, 1, 1])])
def test_a_place_knows_its_levels_its_node_and_whether_a_vcpu_is_there(
    argv: list[str], nodes: list[int | None]
) -> None:
    slots = CpuSlots(
        config_of("-smp", "3,maxcpus=4,sockets=2,cores=1,threads=2", *argv), [0, 1, 4, 5]
    )
    assert [(s.socket, s.core, s.thread) for s in slots] == [
        (0, 0, 0),
        (0, 0, 1),
        (1, 0, 0),
        (1, 0, 1),
    ]
    assert [s.node for s in slots] == nodes
    assert [s.hardware_id for s in slots.present] == [0, 1, 4]
    assert (len(slots), slots.last_hardware_id) == (4, 5)


def test_a_place_has_the_thread_of_its_vcpu_and_none_without() -> None:
    class Vcpu:
        thread_id = 77

    slots = CpuSlots(config_of("-smp", "1,maxcpus=2"), [0, 1])
    taken, free = slots
    taken.vcpu = Vcpu()
    assert (taken.thread_id, free.thread_id) == (77, 0)
