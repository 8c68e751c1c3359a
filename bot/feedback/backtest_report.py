"""What a backtest found, as records, and the statistics in it. Pure numpy. docs/rules.md says how to read each number.

Shapes: `D` decisions, `C` conversations. NaN: unknown; it becomes null in JSON.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ACTS = ("handoff", "clarify")
"""Acts that are easy to do and often praised: where a reward would be hacked first."""
BINS = 20
"""Of the histogram, from -1 to 1."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """Of the rewards of rated decisions."""

    mean: float
    std: float
    quantiles: Mapping[str, float]
    """p0, p5, p25, p50, p75, p95, p100."""
    histogram: tuple[int, ...]
    """Counts in BINS equal bins from -1 to 1 (what lies outside is counted in the outermost)."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """How much the reward favours one act."""

    rate: float
    """Share of all decisions."""
    num_rated: int
    mean_reward: float
    mean_reward_others: float
    rate_among_best: float
    """Share among the tenth of rated decisions with the highest reward."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What one set of rules gives."""

    num_rated: int
    coverage: float
    """Share of decisions with a reward of their own (credit that travels back is not counted)."""
    num_conversations_rated: int
    distribution: Distribution
    clipped: float
    """Share of rated decisions that the clip changed."""
    auc: float
    """Probability that a solved conversation has a higher mean reward than an unsolved one, without what the outcome
    itself brought (which would agree with itself)."""
    auc_ci: tuple[float, float]
    auc_n: int
    auc_with_outcome: float
    length_correlation: float
    """Spearman's rank correlation of a reply's own reward and its number of words."""
    acts: Mapping[str, Exposure]
    rules: Mapping[str, Mapping[str, float]]
    """Term name -> `terms` (how many), `sum`, `mean`."""


@dataclass(frozen=True, slots=True)
class Diff:
    """Decisions whose reward is another one than under the rules in force."""

    num_changed: int
    num_raised: int
    num_lowered: int
    num_newly_rated: int
    num_no_longer_rated: int
    num_sign_flipped: int
    mean_change: float
    """Over decisions rated by both."""


@dataclass(frozen=True, slots=True)
class Shift:
    """A conversation that gains or loses: the sums of its rewards."""

    conversation_id: str
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Segment:
    """The conversations of one kind of user."""

    name: str
    num_conversations: int
    num_decisions: int
    coverage: float
    mean_before: float
    mean_after: float


@dataclass(frozen=True, slots=True)
class Report:
    """A whole backtest."""

    rules_hash: str
    before_hash: str
    num_conversations: int
    num_decisions: int
    handover_rate: float
    """Share of conversations in which a person was asked for."""
    after: Summary
    before: Summary
    diff: Diff
    gained: tuple[Shift, ...]
    lost: tuple[Shift, ...]
    segments: tuple[Segment, ...]
    failures: Mapping[str, int]
    """What could not be computed under the new rules -> how often."""

    def as_json(self) -> dict[str, Any]:
        """Plain values; what is unknown is None."""
        return _plain(asdict(self))  # type: ignore[no-any-return]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def distribution(rewards_D: Floats) -> Distribution:
    """Of rewards without NaN; of none at all: NaN."""
    counts, _ = np.histogram(np.clip(rewards_D, -1, 1), bins=BINS, range=(-1, 1))
    shares = (0, 5, 25, 50, 75, 95, 100)
    found = np.percentile(rewards_D, shares) if rewards_D.size else np.full(len(shares), np.nan)
    return Distribution(
        mean=float(rewards_D.mean()) if rewards_D.size else math.nan,
        std=float(rewards_D.std()) if rewards_D.size else math.nan,
        quantiles={f"p{share}": float(value) for share, value in zip(shares, found, strict=True)},
        histogram=tuple(int(count) for count in counts),
    )


def ranks(values: Floats) -> Floats:
    """Ranks from 1; ties share the mean of theirs."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[group], dtype=np.float64)


def auc(scores_C: Floats, labels_C: Floats) -> tuple[float, int, int]:
    """(area under the ROC curve, number of positives, of negatives) where both are known: the Mann-Whitney statistic,
    ties count half. NaN when either class is empty."""
    known = ~np.isnan(scores_C) & ~np.isnan(labels_C)
    scores, is_positive = scores_C[known], labels_C[known] > 0
    positives = int(is_positive.sum())
    negatives = len(scores) - positives
    if not positives or not negatives:
        return math.nan, positives, negatives
    above = ranks(scores)[is_positive].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives)), positives, negatives


def auc_interval(area: float, positives: int, negatives: int) -> tuple[float, float]:
    """95 % interval by the standard error of Hanley and McNeil (Radiology 143, 1982)."""
    if not positives or not negatives:
        return math.nan, math.nan
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + (positives - 1) * (q1 - area**2) + (negatives - 1) * (q2 - area**2)
    half = 1.96 * math.sqrt(max(variance, 0.0) / (positives * negatives))
    return max(0.0, area - half), min(1.0, area + half)


def spearman(first_D: Floats, second_D: Floats) -> float:
    """Rank correlation where both are known; NaN when one of them never varies."""
    known = ~np.isnan(first_D) & ~np.isnan(second_D)
    if known.sum() < 2:
        return math.nan
    first, second = ranks(first_D[known]), ranks(second_D[known])
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return math.nan
    return float(np.corrcoef(first, second)[0, 1])
