"""Base class of devices whose queues are all handled in Python."""

from __future__ import annotations

from abc import ABC, abstractmethod

from stratovirt._native.virtqueue import DescriptorChain
from stratovirt.runtime.loop import Loop
from stratovirt.virtio.device import ActiveQueue, VirtioDevice
from stratovirt.virtio.served_queue import ServedQueue


class PythonDevice(VirtioDevice, ABC):
    """A device whose `handle` processes each chain of each queue, in the event loop."""

    def __init__(self, loop: Loop) -> None:
        super().__init__()
        self.loop = loop
        self.served: dict[int, ServedQueue] = {}
        """The queues the driver has set up, by index."""
        self.agreed = 0
        """The negotiated features; 0 while the device is inactive."""

    @abstractmethod
    def handle(self, queue: int, chain: DescriptorChain) -> bool:
        """Take one chain of `queue`; False when it must wait."""

    def activate(self, queues: list[ActiveQueue], features: int) -> None:
        """Serve the queues."""
        self.agreed = features
        self.served = {
            queue.index: ServedQueue(
                self.loop,
                queue,
                lambda chain, index=queue.index: self.handle(index, chain),  # type: ignore[misc]
                self._queue_broken,
                self.failed,
            )
            for queue in queues
        }
        if not self.is_resting:
            self._start()

    def deactivate(self) -> None:
        """Stop serving and drop the queues."""
        self._stop()
        self.served = {}
        self.agreed = 0

    def quiesce(self) -> None:
        """Stop serving; no request is in flight between two calls of `handle`."""
        super().quiesce()
        self._stop()

    def resume(self) -> None:
        """Serve the queues again."""
        super().resume()
        self._start()

    def _start(self) -> None:
        for queue in self.served.values():
            queue.start()

    def _stop(self) -> None:
        for queue in self.served.values():
            queue.stop()

    def serve(self, index: int) -> None:
        """Try queue `index` again after `handle` refused a chain."""
        if index in self.served:
            self.served[index].serve()

    def serve_soon(self, index: int) -> None:
        """Serve queue `index`, whose chain was refused, after the loop's other events."""
        self.served[index].serve_soon()

    def _queue_broken(self, reason: str) -> None:
        self._stop()
        self.broken(reason)
