"""Measures that an engine keeps of itself: how often a value fell into which bucket. Knows nothing of who reads them."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
"""Buckets of batches, in members."""
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@dataclass(slots=True)
class Tally:
    """A histogram. One thread adds; others may read."""

    bounds: tuple[float, ...]
    """Upper ends of the buckets, rising; a last bucket takes what is above."""
    counts: list[int] = field(init=False)
    """By bucket, one more than `bounds`."""
    total: float = 0.0
    """Sum of the values."""

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value
