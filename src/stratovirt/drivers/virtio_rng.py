"""Entropy device (virtio 1.2, section 5.4): fills guest buffers with bytes of the host."""

from __future__ import annotations

import os
import stat

from stratovirt._native.rate_limit import RateLimit
from stratovirt._native.virtqueue import DescriptorChain
from stratovirt.config.buses import DeviceId
from stratovirt.config.devices import SingleFunctionPlace
from stratovirt.config.driver import DeviceOptions, over_mmio_and_pci
from stratovirt.config.kinds import Identifier, Integer, Reference
from stratovirt.config.objects import RngRandom
from stratovirt.config.options import opt
from stratovirt.devices.device_host import DeviceHost
from stratovirt.errors import StratovirtError
from stratovirt.runtime.log import Log
from stratovirt.runtime.loop import READABLE
from stratovirt.snapshot.state import NoState
from stratovirt.virtio.python_device import PythonDevice
from stratovirt.virtio.served_queue import TURN_BYTES

log = Log(__name__)

QUEUE_SIZE = 256
CHUNK = TURN_BYTES
"""Most bytes given to one request."""
SMALLEST_BURST = 64
"""Size of a Linux request; a smaller burst would cost one interrupt per few bytes."""
NS_PER_MS = 1_000_000
RATE_LOWEST, RATE_LIMIT = 64, 1_000_000_000
"""Bytes a second that the device may be held to: the lowest, and the first beyond the highest."""


class VirtioRng(DeviceOptions):
    """Entropy device (virtio 1.2, section 5.4)."""

    rng: str = opt(Reference("-object rng-random", shared=True), help="id of an -object rng-random")
    id: str | None = opt(Identifier(), default=None, help="device name")
    max_bytes: int | None = opt(
        Integer(1, RATE_LIMIT * 1000), default=None, help="bytes in a period at most"
    )
    period: int | None = opt(
        Integer(1, 1 << 32), default=None, help="period of max-bytes in milliseconds"
    )

    def check(self) -> None:
        """The rate lies in the guidebook's limits (section 2.8)."""
        if (self.max_bytes is None) != (self.period is None):
            raise ValueError("max-bytes and period go together")
        rate = self.bytes_per_second
        if rate is not None and not RATE_LOWEST <= rate < RATE_LIMIT:
            raise ValueError(
                f"max-bytes in period is {rate} bytes a second but must be at least "
                f"{RATE_LOWEST} and less than {RATE_LIMIT}"
            )

    @property
    def bytes_per_second(self) -> int | None:
        """The limit, or None without one."""
        if self.max_bytes is None or self.period is None:
            return None
        return self.max_bytes * 1000 // self.period


class Rng(PythonDevice):
    """Serves one request queue from one source file, with an optional rate limit."""

    device_id = DeviceId.ENTROPY
    state_type = NoState
    """A request that waits is in its queue still; what the rate limit has left is nobody's."""

    def __init__(self, options: VirtioRng, source: RngRandom, host: DeviceHost) -> None:
        super().__init__(host.loop)
        self.name = options.id or "virtio-rng"
        self._clock = host.clock
        self._limit: RateLimit | None = None
        self._burst = CHUNK
        if options.max_bytes is not None and options.period is not None:
            # The budget of one period may be used at once.
            self._burst = max(options.max_bytes, SMALLEST_BURST)
            self._limit = RateLimit(options.max_bytes, options.period * NS_PER_MS, self._burst)
        self._source_fd = _open_source(source)
        self._waits_for_source = False
        self._waits_for_budget = False

    @property
    def queue_sizes(self) -> tuple[int, ...]:
        """The request queue."""
        return (QUEUE_SIZE,)

    def handle(self, _queue: int, chain: DescriptorChain) -> bool:
        """Fill a buffer; a short read or the limits leave its rest unused."""
        wanted = min(chain.writable_len, CHUNK, self._burst)
        now_ns = self._clock.now_ns()
        # Small replies would cost one interrupt each, so a request waits for its full share.
        if self._limit is not None and not self._limit.admits(now_ns, wanted):
            self._wait_until(self._limit.ready_at_ns(now_ns, wanted))
            return False
        content = b""
        try:
            content = os.read(self._source_fd, wanted)
        except BlockingIOError:
            self._wait_for_source()
            return False
        finally:
            if self._limit is not None:
                self._limit.refund(wanted - len(content))
        if not content and wanted:
            log.warn(f"{self.name}: the source has ended; the guest gets nothing from it")
        chain.write(content)
        return True

    def close(self) -> None:
        """Close the source."""
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


DRIVERS = over_mmio_and_pci(
    "virtio-rng", VirtioRng, make, device_id=DeviceId.ENTROPY, pci_place=SingleFunctionPlace
)
