"""Balloon (virtio 1.2, section 5.5): the guest gives memory back, page by page."""

from __future__ import annotations

import struct

from stratovirt._native.virtqueue import DescriptorChain
from stratovirt.config.devices import VirtioBalloon
from stratovirt.config.options import opt
from stratovirt.devices.device_host import DeviceHost
from stratovirt.runtime.log import Log
from stratovirt.snapshot.state import U32, State
from stratovirt.virtio.python_device import PythonDevice
from stratovirt.virtio.served_queue import TURN_BYTES

log = Log(__name__)

QUEUE_SIZE = 256
INFLATE, DEFLATE, STATISTICS = 0, 1, 2
REPORTING_OF_LINUX, REPORTING = 3, 4
"""Section 5.5.2 numbers the reporting queue 4; Linux leaves no number out for a queue that is not
offered, as the one of hints, and takes 3.  Both are served."""
F_STATS_VQ, F_DEFLATE_ON_OOM, F_REPORTING = 1 << 1, 1 << 2, 1 << 5
PAGE = 4096
"""Unit of the balloon, whatever the guest's page size is (section 5.5.6)."""
MOST_PAGES = TURN_BYTES // 4
"""Page numbers read of one request; Linux sends 256."""
MOST_REPORTED = 256 << 20
"""Bytes taken of one report; Linux names 32 blocks of 4 MiB at most."""
CONFIG = struct.Struct("<II")
"""num_pages, which the device wants, and actual, which the driver has given."""
EVENT_INTERVAL_NS = 1_000_000_000
"""BALLOON_CHANGED is sent at most once in this time."""
STATISTIC = struct.Struct("<HQ")
STATISTIC_NAMES = (
    "stat-swap-in", "stat-swap-out", "stat-major-faults", "stat-minor-faults",
    "stat-free-memory", "stat-total-memory", "stat-available-memory", "stat-disk-caches",
    "stat-htlb-pgalloc", "stat-htlb-pgfail",
)  # fmt: skip
"""Names by tag (section 5.5.6.3), as QEMU's guest-stats have them."""


class BalloonState(State):
    """Pages wanted and given."""

    wanted_pages: int = opt(U32)
    given_pages: int = opt(U32)


class Balloon(PythonDevice):
    """Takes what the guest gives; knows how much it wants and how much it has."""

    device_id = 5
    state_type = BalloonState

    def __init__(self, options: VirtioBalloon, host: DeviceHost) -> None:
        super().__init__(host.loop)
        self.name = options.id or "virtio-balloon"
        self._memory = host.memory
        self._ram_bytes = host.config.memory.size
        self._clock = host.clock
        self._send_event = host.send_event
        self._deflates_on_oom = options.deflate_on_oom
        self._takes_reports = options.free_page_reporting
        self._wanted_pages = 0
        self._given_pages = 0
        self._next_event_ns = 0
        self._event_is_due = False
        self._complained = False
        self.statistics: dict[str, int] = {}
        """What the guest last said of its memory; counts, and sizes in bytes."""
        self._asks_for_statistics = False

    @property
    def queue_sizes(self) -> tuple[int, ...]:
        """Inflate, deflate, statistics, and what carries reports when they were asked for."""
        return (QUEUE_SIZE,) * (REPORTING + 1 if self._takes_reports else STATISTICS + 1)

    @property
    def features(self) -> int:
        """Statistics, and deflate-on-oom and reports of free pages when they were asked for."""
        return (
            F_STATS_VQ
            | (F_DEFLATE_ON_OOM if self._deflates_on_oom else 0)
            | (F_REPORTING if self._takes_reports else 0)
        )

    def config_space(self) -> bytes:
        """struct virtio_balloon_config (section 5.5.4)."""
        return CONFIG.pack(self._wanted_pages, self._given_pages)

    def write_config(self, offset: int, content: bytes) -> None:
        """The driver says how many pages it has given."""
        space = bytearray(self.config_space())
        if offset + len(content) > len(space):
            return
        space[offset : offset + len(content)] = content
        given = min(CONFIG.unpack(space)[1], self._ram_bytes // PAGE)
        if given != self._given_pages:
            self._given_pages = given
            self._changed()

    @property
    def actual(self) -> int:
        """Bytes of memory the guest has."""
        return self._ram_bytes - self._given_pages * PAGE

    def set_target(self, size_bytes: int) -> None:
        """Let the guest have this much memory; more than the machine has means all of it."""
        self._wanted_pages = (self._ram_bytes - min(size_bytes, self._ram_bytes)) // PAGE
        self.config_changed()

    def ask_for_statistics(self) -> None:
        """Have the guest refresh `statistics`; it answers in its own time."""
        self._asks_for_statistics = True
        self.serve(STATISTICS)

    def handle(self, queue: int, chain: DescriptorChain) -> bool:
        """Take pages, give them back, or read statistics."""
        if queue == INFLATE:
            self._take(chain.read(4 * MOST_PAGES))
        elif queue == STATISTICS:
            return self._read_statistics(chain)
        elif queue in (REPORTING_OF_LINUX, REPORTING) and self.agreed & F_REPORTING:
            # Free, and nobody counts on what they hold (section 5.5.6.7); the next touch makes
            # new ones.
            chain.discard(self._memory, MOST_REPORTED)
        # Deflated pages come back by themselves when the guest touches them.
        return True

    def deactivate(self) -> None:
        """A reset driver has no pages in the balloon."""
        super().deactivate()
        self._given_pages = 0
        self.statistics = {}

    def save(self) -> BalloonState:
        """How far the balloon is blown up; the pages in it are holes of RAM."""
        return BalloonState(wanted_pages=self._wanted_pages, given_pages=self._given_pages)

    def restore(self, state: BalloonState) -> None:
        """Go on with the same balloon."""
        most = self._ram_bytes // PAGE
        self._wanted_pages = min(state.wanted_pages, most)
        self._given_pages = min(state.given_pages, most)

    def _take(self, page_numbers: bytes) -> None:
        refused = self._memory.discard_pages(page_numbers[: len(page_numbers) & ~3])
        if refused and not self._complained:
            self._complained = True
            log.warn(f"{self.name}: the guest gives {refused} pages that it does not own")

    def _read_statistics(self, chain: DescriptorChain) -> bool:
        content = chain.read(STATISTIC.size * 64)
        for tag, value in STATISTIC.iter_unpack(content[: len(content) // 10 * 10]):
            if tag < len(STATISTIC_NAMES):
                self.statistics[STATISTIC_NAMES[tag]] = value
        # The buffer goes back when the next statistics are wanted (section 5.5.6.3).
        asked, self._asks_for_statistics = self._asks_for_statistics, False
        return asked

    def _changed(self) -> None:
        if self._event_is_due:
            return
        now = self._clock.now_ns()
        if now >= self._next_event_ns:
            self._report()
        else:
            self._event_is_due = True
            self._clock.call_at(self._next_event_ns, self._report, self.failed)

    def _report(self) -> None:
        self._event_is_due = False
        self._next_event_ns = self._clock.now_ns() + EVENT_INTERVAL_NS
        self._send_event("BALLOON_CHANGED", {"actual": self.actual})


def make(options: VirtioBalloon, host: DeviceHost) -> Balloon:
    """The device for `options`."""
    return Balloon(options, host)
