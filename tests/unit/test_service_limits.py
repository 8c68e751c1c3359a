"""Token buckets."""

from __future__ import annotations

import pytest

from bot.errors import TooMuch
from bot.limits import TokenBuckets
from tests.service_rig import Clock


def test_a_bucket_empties_and_fills_with_time() -> None:
    """Six a minute: one every ten seconds, six at once."""
    clock = Clock()
    buckets = TokenBuckets("messages", 6.0, clock)
    for _ in range(6):
        buckets.take("p1")
    with pytest.raises(TooMuch, match="messages: expected at most 6 a minute") as refused:
        buckets.take("p1")
    assert refused.value.retry_after_s == pytest.approx(10.0)
    clock.now += 4
    with pytest.raises(TooMuch) as refused:
        buckets.take("p1")
    assert refused.value.retry_after_s == pytest.approx(6.0)
    clock.now += 6
    buckets.take("p1")


def test_buckets_are_separate_and_hold_a_minute_at_most() -> None:
    """A long pause does not save up."""
    clock = Clock()
    buckets = TokenBuckets("messages", 2.0, clock)
    buckets.take("p1")
    clock.now += 3600
    buckets.take("p1")
    buckets.take("p1")
    with pytest.raises(TooMuch):
        buckets.take("p1")
    buckets.take("p2")


def test_it_fails_closed_when_it_cannot_keep_count() -> None:
    """Two places, both in use: a third person is refused until one of them is idle again."""
    clock = Clock()
    buckets = TokenBuckets("feedback", 60.0, clock, max_keys=2)
    buckets.take("p1")
    buckets.take("p2")
    with pytest.raises(TooMuch, match="at most 2 people at once"):
        buckets.take("p3")
    clock.now += 1
    buckets.take("p3")


def test_a_rate_of_zero_lets_one_through_and_then_none() -> None:
    """Without dividing by zero."""
    buckets = TokenBuckets("messages", 0.0, Clock())
    buckets.take("p1")
    with pytest.raises(TooMuch):
        buckets.take("p1")
