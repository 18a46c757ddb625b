"""Base of the virtio transports: feature negotiation, status, queues (virtio 1.2, chapter 3)."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod

from stratovirt._native.trace_events import VIRTIO_BROKEN, VIRTIO_FEATURES, VIRTIO_STATUS
from stratovirt._native.virtqueue import Virtqueue, VirtqueueError
from stratovirt.runtime.eventfds import new_eventfds
from stratovirt.runtime.faults import reason, report_bug
from stratovirt.runtime.log import Log
from stratovirt.runtime.loop import run_guarded
from stratovirt.snapshot.errors import SnapshotError
from stratovirt.virtio.device import RING_EVENT_IDX, VERSION_1, ActiveQueue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from stratovirt._native.guest_memory import GuestMemory
    from stratovirt._native.interrupt import Notifier
    from stratovirt.virtio.device import VirtioDevice

log = Log(__name__)

ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK = 1, 2, 4, 8
DEVICE_NEEDS_RESET, FAILED = 64, 128

INTERRUPT_USED, INTERRUPT_CONFIG = 1, 2
"""Bits of the interrupt status: a queue was used, the configuration changed."""


class QueueSetup:
    """One queue's registers as the driver has written them."""

    __slots__ = ("desc", "device", "driver", "kick_fd", "ready", "size", "size_max")

    def __init__(self, size_max: int, kick_fd: int) -> None:
        self.size_max = size_max
        self.kick_fd = kick_fd
        self.reset()

    def reset(self) -> None:
        """Set the power-on values."""
        self.size = self.size_max
        self.ready = False
        self.desc = self.driver = self.device = 0


class VirtioTransport(ABC):
    """The part of a transport that does not depend on its register layout.

    A subclass decodes registers and delivers interrupts to the guest; it creates the notifiers
    that `notifier` returns before it calls this class's `__init__`.
    """

    def __init__(self, device: VirtioDevice, memory: GuestMemory) -> None:
        self.device = device
        self.memory = memory
        sizes = device.queue_sizes
        self.queues = [
            QueueSetup(size, fd) for size, fd in zip(sizes, new_eventfds(len(sizes)), strict=True)
        ]
        self.rings: dict[int, Virtqueue] = {}
        self.is_active = False
        device.broken = self._broken
        device.failed = self.failed
        device.config_changed = self._config_changed
        self._reset_registers()

    @abstractmethod
    def notifier(self, queue: int) -> Notifier:
        """The notifier that interrupts the guest for a queue."""

    @abstractmethod
    def notify_config(self) -> None:
        """Interrupt the guest because the configuration changed."""

    def _reset_registers(self) -> None:
        self.status = 0
        self.device_features_sel = self.driver_features_sel = self.queue_sel = 0
        self.driver_features = 0
        self.config_generation = 0
        for queue in self.queues:
            queue.reset()

    @property
    def features(self) -> int:
        """All offered feature bits, without those whose required features are not offered."""
        return self._sound(self.device.features | self.device.transport_features)

    def _sound(self, features: int) -> int:
        """`features` without those that lack a feature they need (`feature_needs`)."""
        for feature, others in self.device.feature_needs:
            if not features & others:
                features &= ~feature
        return features

    @property
    def feature_word(self) -> int:
        """The 32 feature bits that the driver has selected."""
        if self.device_features_sel > 1:
            return 0
        return self.features >> 32 * self.device_features_sel & 0xFFFF_FFFF

    @property
    def selected(self) -> QueueSetup | None:
        """The queue the driver has selected; None if it does not exist."""
        return self.queues[self.queue_sel] if self.queue_sel < len(self.queues) else None

    @property
    def writable_queue(self) -> QueueSetup | None:
        """The selected queue while the driver may still set it up (before DRIVER_OK), else None."""
        return None if self.status & DRIVER_OK else self.selected

    def write_features(self, value: int) -> None:
        """The driver accepts these of the 32 bits it has selected."""
        if self.driver_features_sel > 1 or self.status & FEATURES_OK:
            return
        shift = 32 * self.driver_features_sel
        self.driver_features &= ~(0xFFFF_FFFF << shift)
        self.driver_features |= value << shift

    def kick(self, index: int) -> None:
        """Signal a queue's doorbell; called only for doorbells that have no ioeventfd."""
        if index < len(self.queues):
            os.eventfd_write(self.queues[index].kick_fd, 1)

    def write_status(self, value: int) -> None:
        """The driver sets status bits, or resets the device with 0."""
        VIRTIO_STATUS(self.device.name, value)
        if value == 0:
            self.reset()
            return
        value &= 0xFF
        if self.status & ~value & ~DEVICE_NEEDS_RESET:
            log.warn(f"{self.device.name}: the driver cleared status bits without a reset")
            return
        fresh = value & ~self.status
        if fresh & FEATURES_OK:
            accepted = self._sound(self.driver_features & self.features)
            if accepted != self.driver_features or not accepted & VERSION_1:
                log.warn(
                    f"{self.device.name}: the driver's features are refused: "
                    f"0x{self.driver_features:x}"
                )
                # From now on the register shows the features that the device accepts.
                self.driver_features = accepted
                value &= ~FEATURES_OK
        needs_reset = self.status & DEVICE_NEEDS_RESET
        self.status = value & ~DEVICE_NEEDS_RESET | needs_reset
        if fresh & DRIVER_OK and not needs_reset:
            if self.status & FEATURES_OK:
                self.activate()
            else:
                self._broken("DRIVER_OK without FEATURES_OK")

    def check_restored(self, features: int) -> None:
        """Check that a snapshot's negotiated features are possible here; raises SnapshotError."""
        lacking = features & ~self.features
        if lacking:
            raise SnapshotError(
                f"{self.device.name}: the guest uses features (0x{lacking:x}) that the device "
                "lacks here"
            )
        lonely = features & ~self._sound(features)
        if lonely or not features & VERSION_1:
            raise SnapshotError(
                f"{self.device.name}: the snapshot's features (0x{features:x}) are none that a "
                "driver could have agreed to"
            )

    def activate(self, positions: Mapping[int, tuple[int, int]] | None = None) -> None:
        """Activate the device with the ready queues, rings at `positions` or at their start."""
        event_idx = bool(self.driver_features & RING_EVENT_IDX)
        queues: list[ActiveQueue] = []
        for index, queue in enumerate(self.queues):
            if not queue.ready:
                continue
            try:
                if queue.size > queue.size_max:
                    raise VirtqueueError(f"queue size {queue.size} is over {queue.size_max}")
                ring = Virtqueue(
                    self.memory, queue.size, queue.desc, queue.driver, queue.device, event_idx
                )
            except VirtqueueError as error:
                self._broken(f"queue {index}: {error}")
                return
            if positions is not None:
                ring.position = positions[index]
            queues.append(ActiveQueue(index, ring, queue.kick_fd, self.notifier(index)))
        self.is_active = True
        self.rings = {queue.index: queue.ring for queue in queues}
        VIRTIO_FEATURES(self.device.name, self.driver_features)
        log.debug(
            f"{self.device.name}: the driver starts it: {len(queues)} queues, "
            f"features 0x{self.driver_features:x}"
        )
        self.device.activate(queues, self.driver_features)

    def _config_changed(self) -> None:
        self.config_generation = self.config_generation + 1 & 0xFFFF_FFFF
        if self.status & DRIVER_OK:
            self.notify_config()

    def _broken(self, why: str) -> None:
        VIRTIO_BROKEN(self.device.name)
        log.warn(f"{self.device.name}: the device needs a reset: {why}")
        self.status |= DEVICE_NEEDS_RESET
        if self.status & DRIVER_OK:
            self.notify_config()

    def failed(self, error: Exception) -> None:
        """Deactivate the device after a host error or a bug; the driver may reset it."""
        if self.is_active:
            self.is_active = False
            run_guarded(self.device.deactivate, report_bug)
            self.rings = {}
        self._broken(reason(error))

    def reset(self) -> None:
        """Reset the device to power-on state; returns when no request is in flight."""
        if self.is_active:
            log.debug(f"{self.device.name}: it is reset")
            self.is_active = False
            self.device.deactivate()
            self.rings = {}
        self._reset_registers()

    def close(self) -> None:
        """Reset the device and close the doorbells."""
        self.reset()
        for queue in self.queues:
            os.close(queue.kick_fd)


def low_half(address: int, value: int) -> int:
    """`address` with its lower 32 bits replaced."""
    return address & ~0xFFFF_FFFF | value


def high_half(address: int, value: int) -> int:
    """`address` with its upper 32 bits replaced."""
    return address & 0xFFFF_FFFF | value << 32
