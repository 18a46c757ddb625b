"""All trace events, native code's and Python's; -trace and trace-set-state switch them by name.

One table beside native code: it is listed without loading the modules that report the events.
"""

from __future__ import annotations

from stratovirt._native.trace import TraceEvent

EVENTS: dict[str, TraceEvent] = {}


def _event(name: str, help: str, **arguments: str) -> TraceEvent:
    EVENTS[name] = TraceEvent(name, help, arguments)
    return EVENTS[name]


VM_STATUS = _event("vm_status", "the machine changed its state", status="str")
QMP_COMMAND = _event("qmp_command", "a client sent a command", command="str")
QMP_EVENT = _event("qmp_event", "an event goes out to the clients", event="str")
CHARDEV_CONNECTED = _event("chardev_connected", "a peer is there", chardev="str")
CHARDEV_DISCONNECTED = _event("chardev_disconnected", "the peer has gone", chardev="str")
MEMORY_SLOT = _event(
    "memory_slot", "KVM was told of a piece of RAM; size 0 removes it",
    slot="uint", gpa="hex", size="hex",
)  # fmt: skip
KVM_EXIT = _event(
    "kvm_exit", "KVM_RUN came back, with linux/kvm.h's reason", vcpu="uint", reason="uint"
)
IO_PYTHON = _event(
    "io_python", "a guest access that a Python device answers",
    port="uint", address="hex", size="uint", write="uint",
)  # fmt: skip
VIRTIO_STATUS = _event(
    "virtio_status", "the driver wrote the device status", device="str", status="hex"
)
VIRTIO_FEATURES = _event(
    "virtio_features", "driver and device agreed on features", device="str", features="hex"
)
VIRTIO_BROKEN = _event(
    "virtio_broken", "the driver broke the rules; the device needs a reset", device="str"
)
BLOCK_REQUEST = _event(
    "block_request", "a request was taken from a ring; type as in virtio 1.2, 5.2.6",
    type="uint", sector="uint", bytes="uint",
)  # fmt: skip
BLOCK_COMPLETE = _event(
    "block_complete", "a request was answered; status 0 is success", type="uint", status="uint"
)
