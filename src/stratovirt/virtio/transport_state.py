"""State of a virtio transport: what the driver has negotiated and set up, and ring positions."""

from __future__ import annotations

from stratovirt.config.options import opt
from stratovirt.snapshot.errors import SnapshotError
from stratovirt.snapshot.state import FLAG, U8, U16, U32, U64, Each, State, Struct
from stratovirt.virtio.transport import DRIVER_OK, FEATURES_OK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from stratovirt.virtio.transport import VirtioTransport


class QueueState(State):
    """A queue as the driver has set it up, and the positions of its rings."""

    size: int = opt(U32)
    ready: bool = opt(FLAG)
    desc: int = opt(U64)
    driver: int = opt(U64)
    device: int = opt(U64)
    next_avail: int = opt(U16, default=0)
    next_used: int = opt(U16, default=0)


class TransportState(State):
    """The registers that every transport has, and the queues."""

    device_id: int = opt(U32)
    status: int = opt(U8)
    device_features_sel: int = opt(U32)
    driver_features_sel: int = opt(U32)
    driver_features: int = opt(U64)
    queue_sel: int = opt(U32)
    config_generation: int = opt(U32)
    is_active: bool = opt(FLAG)
    queues: list[QueueState] = opt(Each(Struct(QueueState)))


def saved_registers(transport: VirtioTransport) -> dict[str, Any]:
    """The fields of TransportState; raises SnapshotError for a device that cannot be saved."""
    device = transport.device
    if device.obstacle is not None:
        raise SnapshotError(f"{device.name}: {device.obstacle}")
    return {
        "device_id": device.device_id,
        "status": transport.status,
        "device_features_sel": transport.device_features_sel,
        "driver_features_sel": transport.driver_features_sel,
        "driver_features": transport.driver_features,
        "queue_sel": transport.queue_sel,
        "config_generation": transport.config_generation,
        "is_active": transport.is_active,
        "queues": [_saved_queue(transport, index) for index in range(len(transport.queues))],
    }


def _saved_queue(transport: VirtioTransport, index: int) -> QueueState:
    queue, ring = transport.queues[index], transport.rings.get(index)
    next_avail, next_used = ring.position if ring is not None else (0, 0)
    return QueueState(
        size=queue.size, ready=queue.ready,
        desc=queue.desc, driver=queue.driver, device=queue.device,
        next_avail=next_avail, next_used=next_used,
    )  # fmt: skip


def check_registers(transport: VirtioTransport, state: TransportState) -> None:
    """Raise SnapshotError unless the device here can be as the saved one was."""
    device = transport.device
    if device.obstacle is not None:
        raise SnapshotError(f"{device.name}: {device.obstacle}, nor restored")
    if state.device_id != device.device_id:
        raise SnapshotError(
            f"{device.name}: it has virtio device id {device.device_id} and the snapshot's had "
            f"{state.device_id}"
        )
    if len(state.queues) != len(transport.queues):
        raise SnapshotError(
            f"{device.name}: the device has {len(transport.queues)} queues and the snapshot's "
            f"had {len(state.queues)} (num-queues, mq)"
        )
    if state.is_active and ~state.status & (FEATURES_OK | DRIVER_OK):
        raise SnapshotError(f"{device.name}: the snapshot's device runs without its driver")
    if state.status & FEATURES_OK:
        transport.check_restored(state.driver_features)


def restore_registers(transport: VirtioTransport, state: TransportState) -> None:
    """Restore checked registers and queues, the device quiesced; raises SnapshotError."""
    transport.device.quiesce()
    transport.status, transport.queue_sel = state.status, state.queue_sel
    transport.device_features_sel = state.device_features_sel
    transport.driver_features_sel = state.driver_features_sel
    transport.driver_features = state.driver_features
    transport.config_generation = state.config_generation
    for queue, saved in zip(transport.queues, state.queues, strict=True):
        queue.size, queue.ready = saved.size, saved.ready
        queue.desc, queue.driver, queue.device = saved.desc, saved.driver, saved.device
    if state.is_active:
        transport.activate(
            {i: (queue.next_avail, queue.next_used) for i, queue in enumerate(state.queues)}
        )
        if not transport.is_active:
            raise SnapshotError(f"{transport.device.name}: the snapshot's rings are damaged")
