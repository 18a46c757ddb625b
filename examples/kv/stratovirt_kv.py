"""virtio-kv: a store of values by key for one guest, as a virtio device.

A request is a chain of KEY (read the value) or KEY=VALUE (set it) and a buffer for the answer:
one byte, 0 for success and 1 for failure, and the value that was read.
"""

from __future__ import annotations

from stratovirt._native.virtqueue import DescriptorChain
from stratovirt.config.driver import DeviceOptions, over_mmio_and_pci
from stratovirt.config.kinds import Identifier, Integer
from stratovirt.config.options import opt
from stratovirt.devices.device_host import DeviceHost
from stratovirt.snapshot.state import Bytes, Each, State, Struct
from stratovirt.virtio.python_device import PythonDevice

DEVICE_ID = 63
LONGEST = 4096
KEYS_MOST = 1024
DONE, FAILED = b"\0", b"\1"


class VirtioKv(DeviceOptions):
    """Key-value store of the guest."""

    id: str | None = opt(Identifier(), default=None, help="device name")
    keys: int = opt(Integer(1, KEYS_MOST), default=64, help="keys at most")


class Pair(State):
    """A key with its value."""

    key: bytes = opt(Bytes(LONGEST))
    value: bytes = opt(Bytes(LONGEST))


class KvState(State):
    """All pairs."""

    pairs: list[Pair] = opt(Each(Struct(Pair), KEYS_MOST))


class Kv(PythonDevice):
    """Answers requests on one queue."""

    device_id = DEVICE_ID
    state_type = KvState
    queue_sizes = (64,)

    def __init__(self, options: VirtioKv, host: DeviceHost) -> None:
        super().__init__(host.loop)
        self.name = options.id or "virtio-kv"
        self._most = options.keys
        self._values: dict[bytes, bytes] = {}

    def handle(self, _queue: int, chain: DescriptorChain) -> bool:
        """Answer one request."""
        key, is_set, value = chain.read(LONGEST).partition(b"=")
        if is_set and (key in self._values or len(self._values) < self._most):
            self._values[key] = value
            chain.write(DONE)
        elif not is_set and key in self._values:
            chain.write(DONE + self._values[key])
        else:
            chain.write(FAILED)
        return True

    def save(self) -> KvState:
        """The pairs, for a snapshot."""
        return KvState(pairs=[Pair(key=key, value=self._values[key]) for key in self._values])

    def restore(self, state: KvState) -> None:
        """Take the pairs over."""
        self._values = {pair.key: pair.value for pair in state.pairs}


DRIVERS = over_mmio_and_pci("virtio-kv", VirtioKv, Kv, device_id=DEVICE_ID)
