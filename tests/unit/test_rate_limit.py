"""The rate limiter: its burst, its rate, and when it is ready."""

from hypothesis import given
from hypothesis import strategies as st

from stratovirt._native.rate_limit import RateLimit

SECOND_NS = 1_000_000_000


def test_a_burst_goes_at_once_and_then_the_rate_is_held_to_the_nanosecond() -> None:
    limit = RateLimit(100, SECOND_NS, 10)
    now = 12345
    assert [limit.admits(now) for _ in range(11)] == [True] * 10 + [False]
    for _ in range(1000):
        assert limit.ready_at_ns(now) == now + 10_000_000
        assert not limit.admits(now + 9_999_999)
        now += 10_000_000
        assert limit.admits(now)
        assert not limit.admits(now)


def test_what_did_not_go_is_given_back() -> None:
    limit = RateLimit(1, SECOND_NS, 4)
    assert limit.admits(0, 4)
    limit.refund(3)
    assert limit.admits(0, 3)
    assert not limit.admits(0)
    limit.refund(1000)
    assert not limit.admits(0, 5)


def test_the_largest_limits_do_not_overflow() -> None:
    count, period = 10**12, (1 << 32) * 1_000_000
    limit = RateLimit(count, period, count)
    now = 1 << 62
    assert limit.admits(now, count)
    assert limit.ready_at_ns(now, count) == now + period
    assert limit.ready_at_ns(now, 1) == now + 4295


@given(
    count=st.integers(1, 10**9),
    period=st.integers(1, 10**12),
    burst=st.integers(1, 10**6),
    steps=st.lists(st.tuples(st.integers(0, 10**10), st.integers(1, 10**6)), max_size=30),
)
def test_no_more_than_burst_and_rate_ever_goes_and_ready_is_when_it_says(
    count: int, period: int, burst: int, steps: list[tuple[int, int]]
) -> None:
    limit = RateLimit(count, period, burst)
    now = gone = 0
    for step, wanted in steps:
        now += step
        wanted = min(wanted, burst)
        ready = limit.ready_at_ns(now, wanted)
        if ready > now:
            assert not limit.admits(ready - 1, wanted)
        now = max(now, ready)
        assert limit.admits(now, wanted)
        gone += wanted
        assert gone * period <= burst * period + now * count
