"""Balloon device (virtio 1.2, section 5.5): the guest gives pages of its memory to the host."""

from __future__ import annotations

import struct

from stratovirt._native.virtqueue import DescriptorChain
from stratovirt.config.buses import DeviceId
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
"""Section 5.5.2 numbers the reporting queue 4; Linux skips no number for a queue that is not
offered (free-page hints) and uses 3.  Both are served."""
F_STATS_VQ, F_DEFLATE_ON_OOM, F_REPORTING = 1 << 1, 1 << 2, 1 << 5
PAGE = 4096
"""Unit of the balloon, whatever the guest's page size is (section 5.5.6)."""
MOST_PAGES = TURN_BYTES // 4
"""Most page numbers read from one request; Linux sends 256."""
MOST_REPORTED = 256 << 20
"""Most bytes discarded for one report; Linux reports at most 32 blocks of 4 MiB."""
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
    """Discards the pages that the guest gives; holds the target and the actual number of pages."""

    device_id = DeviceId.BALLOON
    state_type = BalloonState

    def __init__(
        self, name: str, host: DeviceHost, *, deflates_on_oom: bool, takes_reports: bool
    ) -> None:
        super().__init__(host.loop)
        self.name = name
        self._memory = host.memory
        self._ram_bytes = host.config.memory.size
        self._clock = host.clock
        self._send_event = host.send_event
        self._deflates_on_oom = deflates_on_oom
        self._takes_reports = takes_reports
        self._wanted_pages = 0
        self._given_pages = 0
        self._next_event_ns = 0
        self._event_is_due = False
        self._complained = False
        self.statistics: dict[str, int] = {}
        """The guest's last memory statistics by name; counts, and sizes in bytes."""
        self._asks_for_statistics = False

    @property
    def queue_sizes(self) -> tuple[int, ...]:
        """Inflate, deflate, statistics, and with free-page-reporting the reporting queues."""
        return (QUEUE_SIZE,) * (REPORTING + 1 if self._takes_reports else STATISTICS + 1)

    @property
    def features(self) -> int:
        """Statistics, and deflate-on-oom and free page reporting when the options ask for them."""
        return (
            F_STATS_VQ
            | (F_DEFLATE_ON_OOM if self._deflates_on_oom else 0)
            | (F_REPORTING if self._takes_reports else 0)
        )

    def config_space(self) -> bytes:
        """struct virtio_balloon_config (section 5.5.4)."""
        return CONFIG.pack(self._wanted_pages, self._given_pages)

    def write_config(self, offset: int, content: bytes) -> None:
        """The driver writes `actual`, the number of pages it has given."""
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
        """Set the guest's memory target; more than the machine has means all of it."""
        self._wanted_pages = (self._ram_bytes - min(size_bytes, self._ram_bytes)) // PAGE
        self.config_changed()

    def ask_for_statistics(self) -> None:
        """Ask the guest to refresh `statistics`; the answer comes later."""
        self._asks_for_statistics = True
        self.serve(STATISTICS)

    def handle(self, queue: int, chain: DescriptorChain) -> bool:
        """Discard inflated or reported pages, accept deflated ones, or read statistics."""
        if queue == INFLATE:
            self._take(chain.read(4 * MOST_PAGES))
        elif queue == STATISTICS:
            return self._read_statistics(chain)
        elif queue in (REPORTING_OF_LINUX, REPORTING) and self.agreed & F_REPORTING:
            # Reported pages are free and their content is void (section 5.5.6.7); the next access
            # allocates new ones.
            chain.discard(self._memory, MOST_REPORTED)
        # The host allocates deflated pages when the guest accesses them.
        return True

    def deactivate(self) -> None:
        """A reset driver has no pages in the balloon."""
        super().deactivate()
        self._given_pages = 0
        self.statistics = {}

    def save(self) -> BalloonState:
        """The numbers of wanted and given pages; given pages are holes of RAM."""
        return BalloonState(wanted_pages=self._wanted_pages, given_pages=self._given_pages)

    def restore(self, state: BalloonState) -> None:
        """Set the saved page counts, each at most the pages of RAM."""
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
        # The buffer is returned when the next statistics are requested (section 5.5.6.3).
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
