"""Blind verdicts of operators as evidence: whose choice did they find better, a candidate's or another policy's? Pure.

A verdict says of one question that one act is better than another. It is nobody's training row, and holds for any policy that
can score the two acts, so also for a candidate that no operator has met. Where candidate and baseline prefer the same act it
tells them apart as little as a tie does; of the others each is a win or a loss, and under "neither is better" a fair coin
(sign test; Dixon and Mood 1946).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

from online_learning.statistics import Floats


@dataclass(frozen=True, slots=True)
class Preference:
    """A candidate beside one baseline, over verdicts."""

    wins: int
    """The two prefer different acts, and the operator the candidate's."""
    losses: int
    alike: int
    """Both prefer the same one: no evidence."""

    @property
    def p_worse(self) -> float:
        """How probable as many losses or more would be if neither were better; 1 without a win or loss."""
        return upper_tail(self.wins + self.losses, self.losses)

    @property
    def share(self) -> float:
        """Mean of the candidate's true share of wins, after a flat prior: Beta(1 + wins, 1 + losses)."""
        return (1 + self.wins) / (2 + self.wins + self.losses)


def upper_tail(num: int, at_least: int) -> float:
    """P(X >= at_least) for X ~ Binomial(num, 1/2), exact."""
    return sum(comb(num, k) for k in range(at_least, num + 1)) / (1 << num)


def preference(margins_candidate_B: Floats, margins_baseline_B: Floats) -> Preference:
    """`margins`: log p(act found better) - log p(the other), of each verdict. Raises ValueError for unequal lengths."""
    if margins_candidate_B.shape != margins_baseline_B.shape:
        shapes = f"{margins_candidate_B.shape} and {margins_baseline_B.shape}"
        raise ValueError(f"preference: expected equal shapes, got {shapes}")
    candidate_B, baseline_B = margins_candidate_B > 0, margins_baseline_B > 0
    wins, losses = int((candidate_B & ~baseline_B).sum()), int((baseline_B & ~candidate_B).sum())
    return Preference(wins, losses, len(candidate_B) - wins - losses)


@dataclass(frozen=True, slots=True)
class Places:
    """Where the two acts of a verdict stand among a decision's legal acts."""

    better: int
    worse: int


def margins(logprobs: Sequence[Floats], places: Sequence[Places]) -> list[float]:
    """Of each verdict, by the log-probabilities [A] of its question's legal acts."""
    return [float(row_A[place.better] - row_A[place.worse]) for row_A, place in zip(logprobs, places, strict=True)]
