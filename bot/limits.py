"""Token buckets: how often one person, or one address, may do one thing. Fails closed: when it cannot keep count, it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bot.errors import TooMuch


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class TokenBuckets:
    """One bucket per key: `per_min` tokens a minute, at most `burst` at once (default: a minute's worth).

    A full bucket is the same as none, so full ones are dropped to make room. `clock` is monotonic seconds.
    Used from the event loop only.
    """

    def __init__(
        self,
        what: str,
        per_min: float,
        clock: Callable[[], float],
        burst: float | None = None,
        max_keys: int = 100_000,
    ) -> None:
        self._what = what
        self._per_s = per_min / 60
        self._burst = max(1.0, per_min if burst is None else burst)
        self._per_min = per_min
        self._clock = clock
        self._max_keys = max_keys
        self._buckets: dict[str, _Bucket] = {}

    def take(self, key: str) -> None:
        """Use one token. Raises TooMuch with `retry_after_s` when there is none, or no room to count."""
        bucket = self._bucket(key)
        if bucket.tokens < 1:
            wait_s = (1 - bucket.tokens) / self._per_s if self._per_s else 60.0
            raise TooMuch(f"{self._what}: expected at most {self._per_min:g} a minute, got more", wait_s)
        bucket.tokens -= 1

    def _bucket(self, key: str) -> _Bucket:
        now = self._clock()
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= self._max_keys:
                self._drop_full(now)
            bucket = self._buckets[key] = _Bucket(self._burst, now)
        bucket.tokens = self._filled(bucket, now)
        bucket.at = now
        return bucket

    def _filled(self, bucket: _Bucket, now: float) -> float:
        return min(self._burst, bucket.tokens + (now - bucket.at) * self._per_s)

    def _drop_full(self, now: float) -> None:
        self._buckets = {key: b for key, b in self._buckets.items() if self._filled(b, now) < self._burst}
        if len(self._buckets) >= self._max_keys:
            raise TooMuch(f"{self._what}: expected at most {self._max_keys} people at once, got more", 60.0)
