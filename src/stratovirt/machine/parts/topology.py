"""The processors and memory of NUMA nodes, for the guest's tables: SRAT and SLIT, or a tree."""

from __future__ import annotations

from stratovirt.machine.part import Part

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stratovirt.boot.device_tree import DeviceTree
    from stratovirt.config.vm_config import VmConfig
    from stratovirt.cpu.slots import CpuSlots
    from stratovirt.memory.ram import RamPiece


class Topology(Part):
    """Processors, memory, and the nodes of both.

    `affinity(hardware id, node)` makes a processor's entry in SRAT.  In a device tree a processor
    has the properties `processor`.
    """

    def __init__(
        self,
        config: VmConfig,
        cpus: CpuSlots,
        memory: list[RamPiece],
        *,
        affinity: Callable[[int, int], bytes] | None = None,
        processor: dict[str, str] | None = None,
    ) -> None:
        super().__init__()
        self._cpus, self._memory, self._affinity = cpus, memory, affinity
        self._processor = processor or {}
        self._count = len(config.numa_nodes)
        if self._count:
            # For the tables of a reset, of a machine that was restored and has made none yet.
            self.late_modules = ("stratovirt.acpi.numa",)
        self._distances = {(d.src, d.dst): d.val for d in config.numa_distances}

    def tables(self) -> list[bytes]:
        """SRAT and SLIT; empty for a machine without NUMA nodes."""
        if not self._count or self._affinity is None:
            return []
        from stratovirt.acpi import numa

        return [
            numa.srat(
                [self._affinity(slot.hardware_id, slot.node or 0) for slot in self._cpus],
                [(piece.gpa, piece.size, piece.node) for piece in self._memory],
            ),
            numa.slit(self._count, self._distances),
        ]

    def device_tree(self, tree: DeviceTree) -> None:
        """Processors and memory with their nodes, and how far apart nodes are."""
        cpus = tree.root.add("cpus")
        cpus.set("#address-cells", 1)
        cpus.set("#size-cells", 0)
        for slot in self._cpus.present:
            node = cpus.add(f"cpu@{slot.hardware_id:x}")
            node.set("device_type", "cpu")
            node.set("reg", slot.hardware_id)
            for name, value in self._processor.items():
                node.set(name, value)
            if self._count:
                node.set("numa-node-id", slot.node or 0)
        for piece in self._memory:
            node = tree.root.add(f"memory@{piece.gpa:x}")
            node.set("device_type", "memory")
            node.set("reg", *tree.range(piece.gpa, piece.size))
            if self._count:
                node.set("numa-node-id", piece.node)
        if self._count:
            self._add_distances(tree)

    def _add_distances(self, tree: DeviceTree) -> None:
        from stratovirt.acpi.numa import distance

        numbers = range(self._count)
        cells = [
            cell
            for source in numbers
            for target in numbers
            for cell in (source, target, distance(self._distances, source, target))
        ]
        node = tree.root.add("distance-map")
        node.set("compatible", "numa-distance-map-v1")
        node.set("distance-matrix", *cells)
