"""Entropy device (virtio 1.2, section 5.4): fills guest buffers with bytes of the host."""

from __future__ import annotations

import os
import stat

from stratovirt._native.virtqueue import DescriptorChain
from stratovirt.config.devices import VirtioRng
from stratovirt.config.objects import RngRandom
from stratovirt.errors import StratovirtError
from stratovirt.machine.device_host import DeviceHost
from stratovirt.runtime.clock import Clock
from stratovirt.runtime.log import Log
from stratovirt.runtime.loop import READABLE
from stratovirt.virtio.python_device import PythonDevice

log = Log(__name__)

QUEUE_SIZE = 256
CHUNK = 65536
"""Most bytes given to one request: one may span gigabytes, and the loop has others to serve."""
BURSTS_PER_SECOND = 20
"""A second's budget comes in this many parts: small enough to hold the rate, large enough to be
worth waking up for."""
SMALLEST_BURST = 64
"""What Linux asks for at once."""
NS = 1_000_000_000


class Budget:
    """Bytes that may flow now: refilled with time, at most one part of a second's worth."""

    def __init__(self, clock: Clock, bytes_per_second: int) -> None:
        self._clock = clock
        self._rate = bytes_per_second
        self._most = max(SMALLEST_BURST, bytes_per_second // BURSTS_PER_SECOND)
        self._level = self._most
        self._filled_ns = clock.now_ns()

    def available(self) -> int:
        """How many bytes may flow now."""
        now = self._clock.now_ns()
        earned = (now - self._filled_ns) * self._rate // NS
        if earned:
            # What is not yet a whole byte stays in the time that is not yet accounted for.
            self._filled_ns += earned * NS // self._rate
            if self._level + earned >= self._most:
                self._filled_ns = now
            self._level = min(self._most, self._level + earned)
        return self._level

    def spend(self, count: int) -> None:
        """`count` bytes have flowed."""
        self._level -= count

    def enough_for(self, wanted: int) -> int:
        """How many of `wanted` bytes may be waited for: all of them, or a whole part."""
        return min(wanted, self._most)

    def ready_at_ns(self, count: int) -> int:
        """When `count` bytes may flow."""
        return self._filled_ns + -(-(count - self._level) * NS // self._rate)


class Rng(PythonDevice):
    """One source, one queue, perhaps a limited rate."""

    device_id = 4

    def __init__(self, options: VirtioRng, source: RngRandom, host: DeviceHost) -> None:
        super().__init__(host.loop)
        self.name = options.id or "virtio-rng"
        self._clock = host.clock
        rate = options.bytes_per_second
        self._budget = Budget(host.clock, rate) if rate is not None else None
        self._source_fd = _open_source(source)
        self._waits_for_source = False
        self._waits_for_budget = False

    @property
    def queue_sizes(self) -> tuple[int, ...]:
        """The request queue."""
        return (QUEUE_SIZE,)

    def handle(self, _queue: int, chain: DescriptorChain) -> bool:
        """Fill a buffer, with less than it holds when there is less to give."""
        wanted = min(chain.writable_len, CHUNK)
        if self._budget is not None:
            # Crumbs would cost the guest an interrupt each: a request waits for a whole helping.
            wanted = self._budget.enough_for(wanted)
            if self._budget.available() < wanted:
                self._wait_until(self._budget.ready_at_ns(wanted))
                return False
        try:
            content = os.read(self._source_fd, wanted)
        except BlockingIOError:
            self._wait_for_source()
            return False
        if not content and wanted:
            log.warn(f"{self.name}: the source has ended; the guest gets nothing from it")
        if self._budget is not None:
            self._budget.spend(len(content))
        chain.write(content)
        return True

    def close(self) -> None:
        """Give the source back."""
        if self._waits_for_source:
            self.loop.unwatch(self._source_fd)
        os.close(self._source_fd)

    def _wait_until(self, deadline_ns: int) -> None:
        if not self._waits_for_budget:
            self._waits_for_budget = True
            self._clock.call_at(deadline_ns, self._refilled, self.failed)

    def _refilled(self) -> None:
        self._waits_for_budget = False
        self.serve(0)

    def _wait_for_source(self) -> None:
        if not self._waits_for_source:
            self._waits_for_source = True
            self.loop.watch(self._source_fd, READABLE, self._source_ready, self.failed)

    def _source_ready(self, _events: int) -> None:
        self._waits_for_source = False
        self.loop.unwatch(self._source_fd)
        self.serve(0)


def _open_source(source: RngRandom) -> int:
    what = f"{source.flag},id={source.id},filename={source.filename}"
    try:
        fd = os.open(source.filename, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise StratovirtError(f"{what}: cannot open: {error.strerror}") from error
    if not stat.S_ISCHR(os.fstat(fd).st_mode):
        os.close(fd)
        raise StratovirtError(f"{what}: not a character device")
    return fd


def make(options: VirtioRng, host: DeviceHost) -> Rng:
    """The device for `options`."""
    return Rng(options, host.config.objects[options.rng], host)
