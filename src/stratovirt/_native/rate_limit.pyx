"""The one rate limiter: of requests to a disk, bytes of entropy, a monitor's commands, log lines.

It never asks for the time, so it works on any clock.
"""


cdef class RateLimit:
    """`count` in each `period_ns`, exact over time, and `burst` at once after a rest."""

    def __cinit__(self, uint64_t count, uint64_t period_ns, uint64_t burst):
        if not (count and period_ns and burst):
            raise ValueError("a rate limit is of at least one in some time")
        self._count, self._period_ns, self._burst = count, period_ns, burst
        self._spent = 0
        self._last_ns = 0

    def admits(self, uint64_t now_ns, uint64_t count=1):
        """Whether `count` may go now; they are counted if so."""
        return self.take(now_ns, count)

    def ready_at_ns(self, uint64_t now_ns, uint64_t count=1):
        """When `count`, at most a burst, may go if none goes before."""
        return self.when(now_ns, count)

    def refund(self, uint64_t count=1):
        """So many of those admitted last did not go."""
        self.give_back(count)

    cdef void _earn(self, uint64_t now_ns) noexcept nogil:
        if now_ns > self._last_ns:
            self._forgive(<wide_t>(now_ns - self._last_ns) * self._count)
            self._last_ns = now_ns

    cdef void _forgive(self, wide_t cost) noexcept nogil:
        if cost < self._spent:
            self._spent -= cost
        else:
            self._spent = 0

    cdef bint take(self, uint64_t now_ns, uint64_t count) noexcept nogil:
        """`admits` for Python."""
        cdef wide_t spent
        self._earn(now_ns)
        spent = self._spent + <wide_t>count * self._period_ns
        if spent > <wide_t>self._burst * self._period_ns:
            return False
        self._spent = spent
        return True

    cdef uint64_t when(self, uint64_t now_ns, uint64_t count) noexcept nogil:
        """`ready_at_ns` for Python."""
        cdef wide_t spent, most
        self._earn(now_ns)
        spent = self._spent + <wide_t>count * self._period_ns
        most = <wide_t>self._burst * self._period_ns
        if spent <= most:
            return now_ns
        return now_ns + <uint64_t>((spent - most + self._count - 1) / self._count)

    cdef void give_back(self, uint64_t count) noexcept nogil:
        """`refund` for Python."""
        self._forgive(<wide_t>count * self._period_ns)
