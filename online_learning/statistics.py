"""Intervals by bootstrap, the effective sample size, and seeded streams of randomness. Pure numpy.

Turns of one conversation are not independent, so whole conversations (clusters) are resampled. All draws are
one matrix product: counts [R, K] times per-cluster sums [K, C].

Shapes: `B` rows, `K` clusters, `R` resamples, `C` columns.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its percentile-bootstrap interval. Fewer than two clusters: (-inf, inf), nothing is known."""

    mean: float
    lo: float
    hi: float


def seeded(seed: int, stream: str) -> np.random.Generator:
    """A generator for one purpose: streams of different names never share draws, the same name repeats."""
    return np.random.default_rng([seed, zlib.crc32(stream.encode())])


def cluster_sums(columns_B_C: Floats, clusters_B: ArrayLike) -> Floats:
    """Sum of each column within each cluster; [K, C], clusters in sorted order."""
    _, codes_B = np.unique(np.asarray(clusters_B), return_inverse=True)
    sums_K_C = np.zeros((int(codes_B.max(initial=-1)) + 1, columns_B_C.shape[1]))
    np.add.at(sums_K_C, codes_B, columns_B_C)
    return sums_K_C


def resampled_sums(sums_K_C: Floats, rng: np.random.Generator, num_resamples: int) -> Floats:
    """Column totals of `num_resamples` bootstrap draws of K clusters; [R, C]."""
    num_clusters = len(sums_K_C)
    counts_R_K = rng.multinomial(num_clusters, np.full(num_clusters, 1 / num_clusters), size=num_resamples)
    totals_R_C: Floats = counts_R_K @ sums_K_C
    return totals_R_C


def percentile_interval(mean: float, draws_R: Floats, num_clusters: int, level: float) -> Interval:
    """The central `level` of the draws (0.90 makes each end a one-sided 95 % bound)."""
    if num_clusters < 2:
        return Interval(mean, -np.inf, np.inf)
    tail = (1 - level) / 2
    lo, hi = np.quantile(draws_R, [tail, 1 - tail])
    return Interval(mean, float(lo), float(hi))


def mean_interval(
    values_B: ArrayLike,
    rng: np.random.Generator,
    clusters_B: ArrayLike | None = None,
    *,
    level: float = 0.95,
    num_resamples: int = 2000,
) -> Interval:
    """The mean with its interval; without `clusters_B` every row is its own. Raises ValueError without rows."""
    values = np.asarray(values_B, dtype=np.float64)
    if not values.size:
        raise ValueError("mean_interval: expected at least one row, got none")
    clusters = np.arange(len(values)) if clusters_B is None else clusters_B
    sums_K_2 = cluster_sums(np.stack([values, np.ones_like(values)], 1), clusters)
    totals_R_2 = resampled_sums(sums_K_2, rng, num_resamples)
    return percentile_interval(float(values.mean()), totals_R_2[:, 0] / totals_R_2[:, 1], len(sums_K_2), level)


def paired_difference(
    after_B: ArrayLike,
    before_B: ArrayLike,
    rng: np.random.Generator,
    clusters_B: ArrayLike | None = None,
    *,
    level: float = 0.95,
    num_resamples: int = 2000,
) -> Interval:
    """Mean of after - before on the same rows. Rows that agree cancel, so it is far sharper than two intervals."""
    after, before = np.asarray(after_B, dtype=np.float64), np.asarray(before_B, dtype=np.float64)
    if after.shape != before.shape:
        raise ValueError(f"paired_difference: expected equal shapes, got {after.shape} and {before.shape}")
    return mean_interval(after - before, rng, clusters_B, level=level, num_resamples=num_resamples)


def probability_not_below(
    after_B: ArrayLike, before_B: ArrayLike, rng: np.random.Generator, *, num_resamples: int = 10_000
) -> float:
    """One-sided paired bootstrap: how often, of rows drawn anew, the mean of after - before is 0 or more.

    Small where `after` is below `before` beyond chance. Never 0: the sample itself counts as one draw (Davison and
    Hinkley 1997, 4.2.5). Raises ValueError without rows.
    """
    differences_B = np.asarray(after_B, dtype=np.float64) - np.asarray(before_B, dtype=np.float64)
    if not differences_B.size:
        raise ValueError("probability_not_below: expected at least one row, got none")
    values, counts = np.unique(differences_B, return_counts=True)  # Rows that are alike are drawn together.
    draws_R = rng.multinomial(counts.sum(), counts / counts.sum(), size=num_resamples) @ values
    return float((1 + (draws_R >= 0).sum()) / (1 + num_resamples))


def holm(p_values: Sequence[float], level: float = 0.05) -> list[bool]:
    """Which of several hypotheses are refuted when the chance that any is so wrongly is to stay below `level`.

    The smallest of m values must be at most level / m, the next level / (m - 1), ...; the first that is not ends it
    (Holm 1979).
    """
    refuted = [False] * len(p_values)
    for rank, place in enumerate(np.argsort(p_values, kind="stable").tolist()):
        if p_values[place] > level / (len(p_values) - rank):
            break
        refuted[place] = True
    return refuted


def effective_sample_size(weights_B: ArrayLike) -> float:
    """Kish: (sum w)^2 / sum w^2, in rows; 0.0 without any weight."""
    weights = np.asarray(weights_B, dtype=np.float64)
    squares = float((weights**2).sum())
    return float(weights.sum()) ** 2 / squares if squares > 0 else 0.0
