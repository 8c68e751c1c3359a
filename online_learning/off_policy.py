"""What would another policy have earned on logged conversations? SNIPS and doubly robust, without asking a user.

Every logged choice carries the whole behaviour distribution, so its propensity is exact. The gate compares two
policies on the *same* rows (`compare`): where they agree the difference is exactly zero, whatever the reward's noise.

- SNIPS (self-normalised importance sampling, Swaminathan & Joachims 2015): sum w r / sum w, w = pi / mu.
- Doubly robust (arXiv 1103.4601): sum_a pi(a) q(a) + w (r - q(chosen)). Unbiased with w untruncated and any q that has
  not seen the row; q is cross-fitted by conversation. w is truncated at `max_weight`, which leaves a bias where q is
  wrong and an act was hardly ever tried (arXiv 1802.01561 truncates for the same reason).
- Direct model: q(a) = b0 + b1 p(a), p the square root of mu, renormalised. Two numbers pool all topics, because at
  hundreds of rows a mean per topic is noise; the root undoes the sharpness that a low temperature gives mu. It rates
  an act as the behaviour policy's own confidence has turned out to deserve, so an act nobody would have tried is
  not taken on the candidate's word.

Shapes: `B` rows, `A` legal acts (padded with probability 0), `R` resamples, `K` conversations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from online_learning.statistics import (
    Floats,
    Interval,
    Ints,
    cluster_sums,
    effective_sample_size,
    percentile_interval,
    resampled_sums,
)

GAP_RANGE = (0.3, 2.0)
"""Rewards live in -1..1. A measured gap outside this range is noise: smaller would stretch every harm without limit."""


@dataclass(frozen=True, slots=True)
class LoggedChoices:
    """Rated choices as they were made."""

    behaviour_B_A: Floats
    """mu(a | s), the stored distribution; 0 at padding."""
    chosen_B: Ints
    rewards_B: Floats
    """-1..1."""
    conversations_B: NDArray[Any]
    """Conversation of each row, of any sortable dtype: what is resampled and cross-fitted by."""

    def __post_init__(self) -> None:
        num_rows = len(self.behaviour_B_A)
        lengths = (len(self.chosen_B), len(self.rewards_B), len(self.conversations_B))
        if lengths != (num_rows,) * 3:
            raise ValueError(f"LoggedChoices: expected {num_rows} of each, got {lengths}")
        if not (chosen(self.behaviour_B_A, self.chosen_B) > 0).all():
            raise ValueError("LoggedChoices: expected a positive propensity for every chosen act, got 0")

    def __len__(self) -> int:
        return len(self.chosen_B)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A candidate against a baseline on the same logged rows, in units of reward."""

    num_rows: int
    num_conversations: int
    difference: Interval
    """Doubly robust, candidate - baseline. Its level makes `lo` the one-sided bound the gate uses."""
    difference_snips: Interval
    candidate: Interval
    baseline: Interval
    gap: float
    """Reward between an act the behaviour policy is sure of and one it rules out: what one right answer is worth."""
    ess: float
    """Effective rows under the candidate's untruncated weights."""

    @property
    def points(self) -> float:
        """The difference in points of right answers (1 = 0.01 of all replies), whatever the raters' noise."""
        return 100 * self.difference.mean / self.gap

    @property
    def lowest_points(self) -> float:
        """The lower bound of the difference, in points."""
        return 100 * self.difference.lo / self.gap


def chosen(values_B_A: Floats, chosen_B: Ints) -> Floats:
    """The column of the chosen act; [B]."""
    picked_B: Floats = values_B_A[np.arange(len(chosen_B)), chosen_B]
    return picked_B


def confidence(behaviour_B_A: Floats) -> Floats:
    """The behaviour distribution flattened by a square root and renormalised; [B, A]."""
    root_B_A = np.sqrt(behaviour_B_A)
    flattened_B_A: Floats = root_B_A / root_B_A.sum(1, keepdims=True)
    return flattened_B_A


def fit_direct_model(confidence_B: Floats, rewards_B: Floats, ridge: float = 1.0) -> tuple[float, float]:
    """(b0, b1) of r = b0 + b1 p by least squares, b1 shrunk by `ridge` pseudo-rows towards 0."""
    if not len(rewards_B):
        return 0.0, 0.0
    features_B_2 = np.stack([np.ones_like(confidence_B), confidence_B], 1)
    normal = features_B_2.T @ features_B_2 + np.diag([0.0, ridge])
    intercept, slope = np.linalg.solve(normal, features_B_2.T @ rewards_B)
    return float(intercept), float(slope)


def cross_fitted(logs: LoggedChoices, num_folds: int = 5) -> Floats:
    """q(s, a) for every legal act, by a model that saw no row of the same conversation; [B, A], within -1..1."""
    confidence_B_A = confidence(logs.behaviour_B_A)
    confidence_B = chosen(confidence_B_A, logs.chosen_B)
    _, codes_B = np.unique(logs.conversations_B, return_inverse=True)
    q_B_A = np.empty_like(confidence_B_A)
    for fold in range(num_folds):
        held_B = codes_B % num_folds == fold
        intercept, slope = fit_direct_model(confidence_B[~held_B], logs.rewards_B[~held_B])
        q_B_A[held_B] = intercept + slope * confidence_B_A[held_B]
    return np.clip(q_B_A, -1, 1)


def importance(logs: LoggedChoices, target_B_A: Floats, max_weight: float = np.inf) -> Floats:
    """min(pi / mu, max_weight) of the chosen acts; [B]."""
    ratio_B = chosen(target_B_A, logs.chosen_B) / chosen(logs.behaviour_B_A, logs.chosen_B)
    return np.minimum(ratio_B, max_weight)


def doubly_robust(logs: LoggedChoices, target_B_A: Floats, q_B_A: Floats, max_weight: float) -> Floats:
    """Each row's estimate of the target policy's reward; their mean is its value; [B]."""
    residual_B = logs.rewards_B - chosen(q_B_A, logs.chosen_B)
    values_B: Floats = (target_B_A * q_B_A).sum(1) + importance(logs, target_B_A, max_weight) * residual_B
    return values_B


def reward_gap(logs: LoggedChoices) -> float:
    """The direct model's slope over all rows, kept within `GAP_RANGE`."""
    confidence_B = chosen(confidence(logs.behaviour_B_A), logs.chosen_B)
    _, slope = fit_direct_model(confidence_B, logs.rewards_B)
    return float(np.clip(slope, *GAP_RANGE))


def compare(
    logs: LoggedChoices,
    candidate_B_A: Floats,
    baseline_B_A: Floats,
    rng: np.random.Generator,
    *,
    max_weight: float = 3.0,
    level: float = 0.90,
    num_resamples: int = 2000,
) -> Comparison:
    """Candidate against baseline by DR and SNIPS, with intervals from one bootstrap over conversations.

    `candidate_B_A` and `baseline_B_A` are each policy's distributions over the same legal acts. `level` 0.90 makes
    every `lo` a one-sided 95 % bound. Raises ValueError without rows or on a shape that does not fit.
    """
    if not len(logs):
        raise ValueError("compare: expected at least one row, got none")
    for name, target in (("candidate", candidate_B_A), ("baseline", baseline_B_A)):
        if target.shape != logs.behaviour_B_A.shape:
            raise ValueError(f"compare: {name}: expected shape {logs.behaviour_B_A.shape}, got {target.shape}")
    q_B_A = cross_fitted(logs)
    columns_B_7 = _columns(logs, candidate_B_A, baseline_B_A, q_B_A, max_weight)
    sums_K_7 = cluster_sums(columns_B_7, logs.conversations_B)
    point_4 = _estimates(sums_K_7.sum(0, keepdims=True))[0]
    draws_R_4 = _estimates(resampled_sums(sums_K_7, rng, num_resamples))
    candidate, baseline, difference, difference_snips = (
        percentile_interval(float(point_4[i]), draws_R_4[:, i], len(sums_K_7), level) for i in range(4)
    )
    return Comparison(
        num_rows=len(logs),
        num_conversations=len(sums_K_7),
        difference=difference,
        difference_snips=difference_snips,
        candidate=candidate,
        baseline=baseline,
        gap=reward_gap(logs),
        ess=effective_sample_size(importance(logs, candidate_B_A)),
    )


def _columns(
    logs: LoggedChoices, candidate_B_A: Floats, baseline_B_A: Floats, q_B_A: Floats, max_weight: float
) -> Floats:
    """Everything whose sums the estimates are made of: count, two DR values, and w r, w of each policy; [B, 7]."""
    weights_B_2 = np.stack([importance(logs, candidate_B_A), importance(logs, baseline_B_A)], 1)
    values_B_2 = np.stack(
        [doubly_robust(logs, target, q_B_A, max_weight) for target in (candidate_B_A, baseline_B_A)], 1
    )
    return np.concatenate(
        [np.ones((len(logs), 1)), values_B_2, weights_B_2 * logs.rewards_B[:, None], weights_B_2], axis=1
    )


def _estimates(sums_R_7: Floats) -> Floats:
    """(candidate DR, baseline DR, their difference, SNIPS difference) of each row of sums; [R, 4]."""
    dr_R_2 = sums_R_7[:, 1:3] / sums_R_7[:, :1]
    snips_R_2 = sums_R_7[:, 3:5] / np.maximum(sums_R_7[:, 5:7], 1e-12)
    return np.stack(
        [dr_R_2[:, 0], dr_R_2[:, 1], dr_R_2[:, 0] - dr_R_2[:, 1], snips_R_2[:, 0] - snips_R_2[:, 1]], axis=1
    )
