"""The places for vCPUs, from -smp and -numa: all that a machine knows of a CPU is read here."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Protocol

    from stratovirt.config.machine import Topology
    from stratovirt.config.vm_config import VmConfig

    class Vcpu(Protocol):
        """What an accelerator puts in a place."""

        @property
        def thread_id(self) -> int:
            """The host thread's id, 0 before its first run."""


class CpuSlot:
    """The place for one vCPU: its number in each level of the topology, and who is there.

    Each number counts within the next level up.  `hardware_id` is the architecture's name for the
    CPU: the APIC id on x86.  `node` is None on a machine without NUMA nodes.
    """

    __slots__ = (
        "cluster", "core", "die", "hardware_id", "index", "is_present", "node", "socket", "thread",
        "vcpu",
    )  # fmt: skip

    def __init__(
        self,
        index: int,
        topology: Topology,
        hardware_id: int,
        node: int | None,
        *,
        is_present: bool,
    ) -> None:
        rest, self.thread = divmod(index, topology.threads)
        rest, self.core = divmod(rest, topology.cores)
        rest, self.cluster = divmod(rest, topology.clusters)
        self.socket, self.die = divmod(rest, topology.dies)
        self.index, self.hardware_id, self.node = index, hardware_id, node
        self.is_present = is_present
        """Whether the machine starts with a vCPU here; the guest is told of the others too."""
        self.vcpu: Vcpu | None = None
        """The vCPU; None where there is none, and with an accelerator whose vCPUs do not run."""

    @property
    def thread_id(self) -> int:
        """The host thread's id, 0 for a vCPU that has not run or has no thread."""
        return self.vcpu.thread_id if self.vcpu is not None else 0


class CpuSlots:
    """All places, those of maxcpus included, in the order of their index and `hardware_ids`."""

    def __init__(self, config: VmConfig, hardware_ids: list[int]) -> None:
        self.topology = config.smp.topology
        nodes: dict[int, int] = {}
        if config.numa_nodes:
            from stratovirt.config.numa_check import node_of_cpus

            nodes = node_of_cpus(config)
        self._slots = [
            CpuSlot(
                index,
                self.topology,
                hardware_id,
                nodes.get(index),
                is_present=index < config.smp.cpus,
            )
            for index, hardware_id in enumerate(hardware_ids)
        ]

    def __iter__(self) -> Iterator[CpuSlot]:
        return iter(self._slots)

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def present(self) -> list[CpuSlot]:
        """The places of the vCPUs that the machine has."""
        return [slot for slot in self._slots if slot.is_present]

    @property
    def last_hardware_id(self) -> int:
        """The highest hardware id of any place."""
        return max(slot.hardware_id for slot in self._slots)
