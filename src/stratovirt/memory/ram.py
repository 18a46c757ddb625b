"""RAM of a machine: allocated from -m or the NUMA nodes, placed at the board's addresses."""

from __future__ import annotations

import errno
import os

from stratovirt._native.guest_memory import GuestMemory
from stratovirt._native.ram_mapping import RamMapping
from stratovirt.config.kinds import size_text
from stratovirt.config.vm_config import VmConfig
from stratovirt.memory.address_space import AddressSpace, AliasRegion, RamRegion
from stratovirt.memory.backing import RamError, huge_page_hint, open_backing, open_log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from stratovirt.config.objects import MemoryBackend
    from stratovirt.memory.prealloc import Allocation

    class RamTemplate(Protocol):
        """Initial content of RAM: see snapshot.restore.Template."""

        memory_fd: int

        def load(self, mapping: RamMapping, offset: int, size: int) -> None:
            """Copy a range into memory that cannot map the snapshot's file; raises OSError."""


NODES_ONLINE = "/sys/devices/system/node/online"


class RamPiece:
    """Guest RAM at [gpa, gpa+size), of NUMA node `node`."""

    __slots__ = ("gpa", "node", "size")

    def __init__(self, gpa: int, size: int, node: int) -> None:
        self.gpa, self.size, self.node = gpa, size, node


class Ram:
    """All RAM of a machine: one mapping, whose parts belong to NUMA nodes in order.

    With a `template` its initial content is the snapshot's: anonymous memory becomes a private
    mapping of the snapshot's file, copied on write; other memory is loaded from the file.
    """

    def __init__(self, config: VmConfig, template: RamTemplate | None = None) -> None:
        self._config = config
        self._template = template
        self._parts: list[tuple[int, int]] = []
        self.allocations: list[Allocation] = []
        """Parts to be allocated before the guest runs."""
        if config.numa_nodes:
            self.mapping = self._reserve()
            self._map_nodes()
        else:
            self.mapping = self._map_whole()

    def place(
        self, memory: GuestMemory, space: AddressSpace, room: list[tuple[int, int]]
    ) -> list[RamPiece]:
        """Map RAM at the board's `room`, (gpa, size) each, from the mapping's start on.

        Returns the pieces, split at NUMA node boundaries too; raises RamError.
        """
        pieces: list[RamPiece] = []
        parts = list(self._parts)
        whole = RamRegion("ram", sum(size for _, size in room), self.mapping, 0)
        offset = 0
        for gpa, size in room:
            memory.add(gpa, self.mapping, offset, size)
            space.add(gpa, AliasRegion(f"ram@0x{gpa:x}", size, whole, offset))
            offset += size
            while size:
                node, left = parts[0]
                taken = min(left, size)
                pieces.append(RamPiece(gpa, taken, node))
                gpa, size = gpa + taken, size - taken
                parts[0] = (node, left - taken)
                if left == taken:
                    parts.pop(0)
        space.commit()
        if all(is_shared for *_, is_shared in memory.files()):
            # Peers that write to the memory log their writes in a file, which has to be here before
            # the process is locked down; it takes no memory until it is used.
            try:
                memory.share_log(open_log(memory.log_size))
            except OSError as error:
                raise RamError(f"cannot make a log of shared memory: {error.strerror}") from error
        return pieces

    def _reserve(self) -> RamMapping:
        size = self._config.memory.size
        try:
            return RamMapping(size, reserved=True)
        except OSError as error:
            raise RamError(
                f"-m {size_text(size)}: cannot reserve so much address space: {error.strerror}; "
                "see ulimit -v"
            ) from error

    def _map_whole(self) -> RamMapping:
        config, size = self._config, self._config.memory.size
        shared = config.machine.mem_share
        source = f"-mem-path {config.mem_path}" if config.mem_path else f"-m {size_text(size)}"
        mapping = self._reserve()
        fd = -1
        try:
            fd = open_backing(config, source, config.mem_path, size, memfd=shared)
            self._map(mapping, 0, size, fd, shared, config.machine.dump_guest_core)
        except OSError as error:
            raise _failed(source, size, error, fd) from error
        finally:
            if fd >= 0:
                os.close(fd)
        self._parts.append((0, size))
        if config.mem_prealloc:
            self._allocate(mapping, 0, size, source, is_own=config.mem_path is None)
        return mapping

    def _map(
        self, mapping: RamMapping, offset: int, size: int, fd: int, shared: bool, dump: bool
    ) -> None:
        template = self._template
        if template is not None and fd < 0 and not shared:
            mapping.map(offset, size, template.memory_fd, False, dump, file_offset=offset)
            return
        mapping.map(offset, size, fd, shared, dump)
        if template is not None:
            template.load(mapping, offset, size)

    def _map_nodes(self) -> None:
        from stratovirt.config.numa_check import node_ids

        config = self._config
        numbered = dict(zip(node_ids(config), config.numa_nodes, strict=True))
        offset = 0
        for number in sorted(numbered):
            options: MemoryBackend = config.objects[numbered[number].memdev]
            self._map_node(options, offset)
            self._parts.append((number, options.size))
            offset += options.size

    def _map_node(self, options: MemoryBackend, offset: int) -> None:
        config, size = self._config, options.size
        source = f"{options.flag},id={options.id}"
        shared = options.share or config.machine.mem_share
        dump = options.dump and config.machine.dump_guest_core
        path = getattr(options, "mem_path", None)
        hugetlb = getattr(options, "hugetlb", False)
        fd = -1
        try:
            memfd = shared or options.flag.endswith("memfd")
            fd = open_backing(config, source, path, size, memfd=memfd, hugetlb=hugetlb)
            self._map(self.mapping, offset, size, fd, shared, dump)
        except OSError as error:
            raise _failed(source, size, error, fd) from error
        finally:
            if fd >= 0:
                os.close(fd)
        if options.host_nodes:
            _bind(self.mapping, options, offset, source)
        if options.prealloc or config.mem_prealloc:
            is_own = path is None and not hugetlb
            self._allocate(self.mapping, offset, size, source, is_own, options.host_nodes)

    def _allocate(
        self,
        mapping: RamMapping,
        offset: int,
        size: int,
        source: str,
        is_own: bool,
        nodes: tuple[int, ...] = (),
    ) -> None:
        """Queue a part for allocation; `is_own` means ordinary host pages. Raises RamError."""
        from stratovirt.memory.prealloc import Allocation, available_bytes

        available = available_bytes() if is_own else None
        if available is not None and size > available:
            raise RamError(
                f"{source}: cannot allocate {size_text(size)} at once: the host has "
                f"{available >> 20}M available"
            )
        self.allocations.append(Allocation(mapping, offset, size, source, nodes))


def _bind(mapping: RamMapping, options: MemoryBackend, offset: int, source: str) -> None:
    online = _online_nodes()
    for node in options.host_nodes:
        if node not in online:
            names = ", ".join(map(str, sorted(online)))
            raise RamError(f"{source}: host-nodes: this host has no node {node}; it has {names}")
    try:
        mapping.bind(offset, options.size, options.policy, options.host_nodes)
    except OSError as error:
        raise RamError(
            f"{source}: the host cannot apply policy={options.policy}: {error.strerror}"
        ) from error


def _online_nodes() -> set[int]:
    try:
        with open(NODES_ONLINE, encoding="ascii") as file:
            ranges = file.read().strip().split(",")
    except OSError:
        # A kernel without NUMA has one node.
        return {0}
    found: set[int] = set()
    for text in ranges:
        first, _, last = text.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def _failed(source: str, size: int, error: OSError, fd: int = -1) -> RamError:
    hint = ""
    if fd >= 0 and error.errno == errno.ENOMEM:
        hint = huge_page_hint(fd, size)
    return RamError(f"{source}: cannot map {size_text(size)}: {error.strerror}{hint}")
