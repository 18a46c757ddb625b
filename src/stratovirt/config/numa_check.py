"""The rules between -numa, -smp and -m (guidebook, section 1.5)."""

from __future__ import annotations

from stratovirt.config.errors import ConfigError
from stratovirt.config.kinds import size_text
from stratovirt.config.numa import MAX_NODES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stratovirt.config.vm_config import VmConfig


def node_ids(config: VmConfig) -> list[int]:
    """The number of each node, in the order given: its own, or the one after the last."""
    ids: list[int] = []
    for node in config.numa_nodes:
        number = node.nodeid if node.nodeid is not None else max(ids, default=-1) + 1
        if number in ids:
            raise ConfigError(f"-numa node,nodeid={number}: another node has this number")
        if number >= MAX_NODES:
            raise ConfigError(f"-numa node: nodeid must be a number from 0 to {MAX_NODES - 1}")
        ids.append(number)
    return ids


def node_of_cpus(config: VmConfig) -> dict[int, int]:
    """The node number of each vCPU by its index; empty without NUMA nodes."""
    return {
        cpu: number
        for number, node in zip(node_ids(config), config.numa_nodes, strict=True)
        for cpu in node.cpus
    }


def check_numa(config: VmConfig) -> None:
    """Every vCPU in one node, memory that adds up, distances between nodes that exist."""
    ids = node_ids(config)
    if ids and config.mem_path is not None:
        raise ConfigError(
            f"-mem-path {config.mem_path}: the memory of -numa node is that of its memdev; "
            "use -object memory-backend-file"
        )
    if sorted(ids) != list(range(len(ids))):
        raise ConfigError(f"-numa node: the nodes are {sorted(ids)} but must be numbered from 0 on")
    seen: dict[int, int] = {}
    for number, node in zip(ids, config.numa_nodes, strict=True):
        for cpu in node.cpus:
            if cpu >= config.smp.maximum:
                raise ConfigError(
                    f"-numa node,nodeid={number}: cpu {cpu} is more than -smp has, "
                    f"{config.smp.maximum} from 0"
                )
            if cpu in seen:
                raise ConfigError(f"-numa node,nodeid={number}: cpu {cpu} is in node {seen[cpu]}")
            seen[cpu] = number
    if ids and len(seen) != config.smp.maximum:
        missing = min(set(range(config.smp.maximum)) - set(seen))
        raise ConfigError(f"-numa node: cpu {missing} of -smp is in no node")
    total = sum(config.objects[node.memdev].size for node in config.numa_nodes)
    if ids and total != config.memory.size:
        raise ConfigError(
            f"-numa node: the nodes have {size_text(total)} but -m is "
            f"{size_text(config.memory.size)}"
        )
    for distance in config.numa_distances:
        for end in (distance.src, distance.dst):
            if end not in ids:
                raise ConfigError(
                    f"-numa dist,src={distance.src},dst={distance.dst}: there is no node {end}"
                )
