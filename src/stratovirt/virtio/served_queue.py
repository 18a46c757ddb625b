"""A virtqueue whose chains are handled in Python, in the event loop."""

from __future__ import annotations

import os

from stratovirt._native.virtqueue import DescriptorChain, VirtqueueError
from stratovirt.runtime.eventfds import take_signal
from stratovirt.runtime.loop import READABLE, Loop
from stratovirt.virtio.device import ActiveQueue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


TURN_CHAINS = 64
TURN_BYTES = 1 << 16
"""Most chains and bytes that a queue moves per turn of the loop, so that others are served."""


class ServedQueue:
    """Calls `handle` for each chain the driver offers.

    `handle` returns True when it is done with the chain, which then goes back to the driver, or
    False when it cannot take it now: the queue waits until `serve` or `serve_soon` is called or the
    driver notifies it.  One call moves no more than TURN_BYTES: one chain may span gigabytes.  A
    broken ring calls `broken` with the reason and is not used again; `failed` gets exceptions.
    """

    def __init__(
        self,
        loop: Loop,
        queue: ActiveQueue,
        handle: Callable[[DescriptorChain], bool],
        broken: Callable[[str], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self._loop = loop
        self._queue = queue
        self._handle = handle
        self._broken, self._failed = broken, failed
        self._is_running = False

    def start(self) -> None:
        """Serve from now on, first the chains already in the ring."""
        self._is_running = True
        self._loop.watch(self._queue.kick_fd, READABLE, self._kicked, self._failed)
        # The driver may have offered chains before its kick was watched.
        self.serve_soon()

    def stop(self) -> None:
        """Stop serving; chains that the driver offers stay in the ring."""
        if self._is_running:
            self._is_running = False
            self._loop.unwatch(self._queue.kick_fd)

    def serve(self) -> None:
        """Handle the chains that the driver offers, at most one turn's worth."""
        if not self._is_running:
            return
        ring = self._queue.ring
        notify = False
        moved = 0
        try:
            for _ in range(TURN_CHAINS):
                chain = ring.pop_chain()
                if chain is None:
                    if ring.rearm():
                        continue
                    break
                if not self._handle(chain):
                    ring.unpop()
                    break
                notify |= ring.push_chain(chain)
                moved += chain.moved
                if moved >= TURN_BYTES:
                    self.serve_soon()
                    break
            else:
                self.serve_soon()
        except VirtqueueError as error:
            self.stop()
            self._broken(str(error))
        if notify:
            self._queue.notifier.raise_interrupt()

    def serve_soon(self) -> None:
        """Serve in a later turn of the loop, after other events."""
        os.eventfd_write(self._queue.kick_fd, 1)

    def _kicked(self, _events: int) -> None:
        if take_signal(self._queue.kick_fd):
            self.serve()
