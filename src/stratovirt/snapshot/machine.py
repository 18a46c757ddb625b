"""What a clone's command line must say as well, and the check of a command line against it."""

from __future__ import annotations

from stratovirt.config.keyval import shown
from stratovirt.config.kinds import size_text
from stratovirt.config.options import opt
from stratovirt.config.vm_config import VmConfig
from stratovirt.snapshot.errors import SnapshotError
from stratovirt.snapshot.state import U64, State, Texts

PATH = "machine"
"""Where the tree of states has a MachineState."""


class MachineState(State):
    """The command line of the snapshot's machine, as far as a clone's must be the same."""

    options: dict[str, str] = opt(Texts(), help="what a clone's command line must say as well")
    memory_bytes: int = opt(U64, help="size of the memory file")


def guest_visible(config: VmConfig) -> dict[str, str]:
    """Guest-visible settings of the command line, which must not change at a restore, by option."""
    topology = config.smp.topology
    options = {
        "-machine": config.machine.type,
        "-accel": str(config.accel),
        "-m": size_text(config.memory.size),
        "-smp": (
            f"cpus={config.smp.cpus},sockets={topology.sockets},dies={topology.dies},"
            f"clusters={topology.clusters},cores={topology.cores},threads={topology.threads}"
        ),
    }
    for number, node in enumerate(config.numa_nodes):
        cpus = ":".join(map(str, node.cpus))
        size = size_text(config.objects[node.memdev].size)
        options[f"-numa node {number}"] = f"nodeid={node.nodeid},cpus={cpus},{size}"
    for distance in config.numa_distances:
        options[f"-numa dist,src={distance.src},dst={distance.dst}"] = f"val={distance.val}"
    return options


def check_fits(theirs: dict[str, str], config: VmConfig) -> None:
    """Raise SnapshotError naming the first option that differs from the snapshot's."""
    ours = guest_visible(config)
    for flag in (*theirs, *ours):
        if theirs.get(flag) != ours.get(flag):
            raise SnapshotError(
                f"{shown(flag)} is {ours.get(flag, 'not given')} and the snapshot's machine has "
                f"{shown(theirs.get(flag, 'none'))}"
            )
