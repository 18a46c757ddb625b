"""The contract between a virtio device and its transport."""

from __future__ import annotations

from stratovirt._native.interrupt import Notifier
from stratovirt._native.virtqueue import Virtqueue
from stratovirt.runtime.faults import report_bug
from stratovirt.snapshot.state import NoState, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

RING_INDIRECT_DESC = 1 << 28
RING_EVENT_IDX = 1 << 29
VERSION_1 = 1 << 32
TRANSPORT_FEATURES = RING_INDIRECT_DESC | RING_EVENT_IDX | VERSION_1
"""Feature bits every device here offers (virtio 1.2, chapter 6)."""


class ActiveQueue:
    """A queue the driver has set up: its ring, its doorbell eventfd and its interrupt."""

    __slots__ = ("index", "kick_fd", "notifier", "ring")

    def __init__(self, index: int, ring: Virtqueue, kick_fd: int, notifier: Notifier) -> None:
        self.index, self.ring = index, ring
        self.kick_fd, self.notifier = kick_fd, notifier


class VirtioDevice:
    """One device: queues, features and configuration space, without transport registers.

    The transport calls `activate` at DRIVER_OK and `deactivate` at reset, both from one thread at
    a time; `quiesce` and `resume` bracket a pause of the machine, and a device activated within
    it starts at `resume`.  A device whose driver violates the specification calls `broken` with
    the reason, in the loop's thread; one whose configuration space changes by itself calls
    `config_changed`.  An exception of a callback or of an access goes to `failed`: the device
    then needs a reset.

    A snapshot of a paused machine stores the result of `save`; `restore` gets it, in another
    process, on a device quiesced and activated as the saved one was.  State of the transport and
    of the rings is not part of it.
    """

    device_id = 0
    """Virtio device id (virtio 1.2, section 5)."""
    name = "virtio"
    rings = 0
    """The io_uring rings that the device may make while the machine runs."""
    uses_kernel_interrupts = False
    """Whether the kernel or another process raises the queues' interrupts (vhost)."""
    feature_needs: tuple[tuple[int, int], ...] = ()
    """(feature, others): the feature needs at least one of the others, offered or accepted."""
    state_type: type[State] = NoState
    """Type of the state that `save` returns."""

    def __init__(self) -> None:
        self.is_resting = False
        self.broken: Callable[[str], None] = lambda _reason: None
        self.failed: Callable[[Exception], None] = report_bug
        self.config_changed: Callable[[], None] = lambda: None

    @property
    def queue_sizes(self) -> tuple[int, ...]:
        """The largest size of each queue."""
        return ()

    @property
    def features(self) -> int:
        """Device-specific feature bits."""
        return 0

    @property
    def transport_features(self) -> int:
        """Feature bits of the rings that the device can serve."""
        return TRANSPORT_FEATURES

    def read_config(self, offset: int, size: int) -> bytes:
        """`size` bytes of the device's configuration space; zeros where there is none."""
        content = self.config_space()[offset : offset + size]
        return content.ljust(size, b"\0")

    def write_config(self, offset: int, content: bytes) -> None:
        """The driver writes to configuration space; ignored where nothing is writable."""

    def config_space(self) -> bytes:
        """The whole configuration space, little endian."""
        return b""

    def activate(self, queues: list[ActiveQueue], features: int) -> None:
        """Start to serve the queues; `features` are the negotiated ones."""

    def deactivate(self) -> None:
        """Stop serving and forget the queues; returns when no request is in flight."""

    def quiesce(self) -> None:
        """Complete requests in flight and serve nothing until `resume`."""
        self.is_resting = True

    def resume(self) -> None:
        """Serve again after `quiesce`."""
        self.is_resting = False

    @property
    def obstacle(self) -> str | None:
        """Why the device cannot be part of a snapshot; None when it can."""
        return None

    def save(self) -> State:
        """The quiesced device's state for a snapshot."""
        return NoState()

    def restore(self, state: Any) -> None:
        """Take over the saved `state`; raises SnapshotError if this device cannot."""

    def close(self) -> None:
        """Release the device's host resources (descriptors, files); the last call."""
