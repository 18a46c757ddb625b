"""MSI-X (PCI Express Base 4.0, section 7.7.2): a table of messages that eventfds send.

Every interrupt source (queue, configuration change, host device) owns an eventfd, which is attached
to a vector.  While the vector is unmasked the eventfd is KVM's irqfd and a message costs no exit;
while it is masked the signalled eventfd is the vector's pending bit.
"""

from __future__ import annotations

import struct

from stratovirt.accel.base import AccelError
from stratovirt.memory.address_space import IoRegion
from stratovirt.pci import config_space as regs
from stratovirt.pci.state import MessageState
from stratovirt.runtime.eventfds import forget_signal, has_signal
from stratovirt.runtime.log import Log
from stratovirt.snapshot.errors import SnapshotError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from stratovirt.accel.base import Accelerator
    from stratovirt.pci.function import PciFunction

log = Log(__name__)

CONTROL = 2
ENABLE, FUNCTION_MASK = 1 << 15, 1 << 14
ENTRY = struct.Struct("<QII")
"""Message address, message data, vector control."""
VECTOR_MASKED = 1
NO_VECTOR = 0xFFFF
BAR_BYTES = 0x1000


class Vector:
    """One entry of the table, and the eventfds that trigger it."""

    __slots__ = ("address", "control", "data", "fds", "gsi")

    def __init__(self) -> None:
        self.fds: set[int] = set()
        self.gsi: int | None = None
        """GSI of its MSI route while the vector is enabled, unmasked and attached; else None."""
        self.reset()

    def reset(self) -> None:
        """Masked and without a message, as after power-on."""
        self.address = self.data = 0
        self.control = VECTOR_MASKED


class Msix:
    """The table and its pending bits; `capability` is the offset of the MSI-X capability."""

    def __init__(
        self, function: PciFunction, accelerator: Accelerator, count: int, capability: int
    ) -> None:
        self._function = function
        self._accelerator = accelerator
        self._capability = capability
        self.vectors = [Vector() for _ in range(count)]
        self._vector_of: dict[int, int] = {}
        self.switched: Callable[[], None] = lambda: None
        """Called when MSI-X as a whole was switched on or off."""
        self._was_enabled = False
        function.config.allow(capability + CONTROL, 2, ENABLE | FUNCTION_MASK)
        function.msix = self

    def table_region(self) -> IoRegion:
        """The registers of the table."""
        return IoRegion(f"{self._function.name}-msix", len(self.vectors) * ENTRY.size, self)

    def pending_region(self) -> IoRegion:
        """The registers of the pending bits."""
        size = (len(self.vectors) + 63) // 64 * 8
        return IoRegion(f"{self._function.name}-pba", size, PendingBits(self))

    @property
    def is_enabled(self) -> bool:
        """Whether the function interrupts by MSI-X and not by its pin."""
        return bool(self._control & ENABLE)

    @property
    def _control(self) -> int:
        return self._function.config.get(self._capability + CONTROL, 2)

    def failed(self, error: Exception) -> None:
        """An access to the table failed."""
        self._function.failed(error)

    def attach(self, fd: int, vector: int) -> None:
        """Attach eventfd `fd` to `vector` only, or to none if the vector does not exist."""
        if self._vector_of.get(fd) == vector:
            return
        self.detach(fd)
        if vector < len(self.vectors):
            self._vector_of[fd] = vector
            self.vectors[vector].fds.add(fd)
            gsi = self.vectors[vector].gsi
            if gsi is not None:
                self._accelerator.attach_irqfd(fd, gsi)
            else:
                self._update(self.vectors[vector])

    def detach(self, fd: int) -> None:
        """Detach eventfd `fd` from its vector."""
        number = self._vector_of.pop(fd, None)
        if number is None:
            return
        vector = self.vectors[number]
        vector.fds.discard(fd)
        if vector.gsi is not None:
            self._accelerator.detach_irqfd(fd, vector.gsi)
        self._update(vector)

    def config_written(self) -> None:
        """The control register may have changed."""
        for vector in self.vectors:
            self._update(vector)
        if self.is_enabled != self._was_enabled:
            self._was_enabled = self.is_enabled
            self.switched()

    def requester_changed(self) -> None:
        """Messages carry another requester id from now on."""
        for vector in self.vectors:
            self._update(vector)

    def _update(self, vector: Vector) -> None:
        may_speak = (
            self._control & (ENABLE | FUNCTION_MASK) == ENABLE
            and not vector.control & VECTOR_MASKED
            and bool(vector.fds)
        )
        if not may_speak:
            self._silence(vector)
            return
        message = vector.address, vector.data, self._function.requester
        try:
            if vector.gsi is not None:
                self._accelerator.change_msi_route(vector.gsi, *message)
                return
            vector.gsi = self._accelerator.add_msi_route(*message)
        except AccelError as error:
            log.warn(f"{self._function.name}: {error}")
            # The old message must not be sent: the eventfd keeps the interrupt as pending.
            self._silence(vector)
            return
        for fd in vector.fds:
            self._accelerator.attach_irqfd(fd, vector.gsi)

    def _silence(self, vector: Vector) -> None:
        if vector.gsi is not None:
            for fd in vector.fds:
                self._accelerator.detach_irqfd(fd, vector.gsi)
            self._accelerator.remove_msi_route(vector.gsi)
            vector.gsi = None

    def reset(self) -> None:
        """Reset to power-on state; eventfds stay attached and are cleared."""
        for vector in self.vectors:
            vector.reset()
        self.config_written()
        for fd in self._vector_of:
            forget_signal(fd)

    def save(self) -> list[MessageState]:
        """The messages of all vectors; what waits in eventfds is their owners' state."""
        return [
            MessageState(
                address=vector.address,
                data=vector.data,
                masked=bool(vector.control & VECTOR_MASKED),
            )
            for vector in self.vectors
        ]

    def check(self, messages: list[MessageState]) -> None:
        """Raise SnapshotError unless there are as many as this table has vectors."""
        if len(messages) != len(self.vectors):
            raise SnapshotError(
                f"{self._function.name}: it has {len(self.vectors)} MSI-X vectors and the "
                f"snapshot's had {len(messages)} (vectors, num-queues, mq)"
            )

    def restore(self, messages: list[MessageState]) -> None:
        """Set the messages, and obey the control register, which was restored before."""
        for vector, saved in zip(self.vectors, messages, strict=True):
            vector.address, vector.data = saved.address, saved.data
            vector.control = VECTOR_MASKED if saved.masked else 0
        self.config_written()

    def is_pending(self, number: int) -> bool:
        """Whether a vector's message waits because it is masked or disabled."""
        vector = self.vectors[number]
        return vector.gsi is None and any(map(has_signal, vector.fds))

    def read(self, offset: int, size: int) -> int:
        """A field of the table: 4 bytes, or 8 at once."""
        if offset % size or size not in (4, 8):
            return 0
        vector = self.vectors[offset // ENTRY.size]
        entry = ENTRY.pack(vector.address, vector.data, vector.control)
        at = offset % ENTRY.size
        return int.from_bytes(entry[at : at + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        """A field of the table: 4 bytes, or 8 at once."""
        if offset % size or size not in (4, 8):
            return
        vector = self.vectors[offset // ENTRY.size]
        entry = bytearray(ENTRY.pack(vector.address, vector.data, vector.control))
        at = offset % ENTRY.size
        entry[at : at + size] = value.to_bytes(size, "little")
        vector.address, vector.data, control = ENTRY.unpack(entry)
        vector.control = control & VECTOR_MASKED
        self._update(vector)


class NoMsix:
    """Stands for the table of a function without MSI-X, which interrupts by its pin."""

    is_enabled = False

    def __init__(self) -> None:
        self.vectors: list[Vector] = []
        self.switched: Callable[[], None] = lambda: None

    def attach(self, _fd: int, _vector: int) -> None:
        """Does nothing: there is no vector."""

    def detach(self, _fd: int) -> None:
        """Does nothing: no eventfd was attached."""


def add_msix(
    function: PciFunction, accelerator: Accelerator, count: int, bar: int
) -> Msix | NoMsix:
    """Give a function the capability, and a BAR for table and pending bits; neither for 0."""
    if count == 0:
        return NoMsix()
    pba = max(BAR_BYTES // 2, count * ENTRY.size)
    capability = function.config.add_capability(
        regs.CAP_MSIX, struct.pack("<HII", count - 1, bar, pba | bar)
    )
    msix = Msix(function, accelerator, count, capability)
    table, pending = msix.table_region(), msix.pending_region()
    size = 1 << (pba + pending.size - 1).bit_length()
    function.add_bar(bar, max(size, BAR_BYTES), [(0, table), (pba, pending)])
    return msix


class PendingBits:
    """The pending bit array, read-only."""

    def __init__(self, msix: Msix) -> None:
        self._msix = msix

    def read(self, offset: int, size: int) -> int:
        """The bits of 8 vectors in each byte."""
        first = 8 * offset
        last = min(first + 8 * size, len(self._msix.vectors))
        return sum(self._msix.is_pending(n) << n - first for n in range(first, last))

    def write(self, offset: int, size: int, value: int) -> None:
        """Nothing is writable."""
