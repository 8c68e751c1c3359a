"""Off-policy estimates against a world whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from online_learning.off_policy import (
    LoggedChoices,
    compare,
    confidence,
    cross_fitted,
    doubly_robust,
    fit_direct_model,
    importance,
    reward_gap,
)
from online_learning.statistics import Floats, seeded

UP_RATES = np.array([0.9, 0.4, 0.2])
"""P(thumb up) of three acts, in every state of the small world below."""


def softmax(logits: Floats) -> Floats:
    exp = np.exp(logits - logits.max(1, keepdims=True))
    probabilities: Floats = exp / exp.sum(1, keepdims=True)
    return probabilities


def world(rng: np.random.Generator, num_rows: int = 300) -> tuple[LoggedChoices, Floats, Floats, float]:
    """(logs, candidate, baseline, true difference): acts drawn from a soft behaviour policy, thumbs by `UP_RATES`."""
    logits = rng.normal(size=(num_rows, 3)) + np.array([1.0, 0.0, 0.0])
    behaviour, candidate = softmax(logits), softmax(logits + np.array([0.8, 0.0, -0.4]))
    chosen_B = (behaviour.cumsum(1) > rng.random((num_rows, 1))).argmax(1)
    rewards = np.where(rng.random(num_rows) < UP_RATES[chosen_B], 1.0, -1.0)
    logs = LoggedChoices(behaviour, chosen_B, rewards, np.arange(num_rows) // 5)
    return logs, candidate, behaviour, float(((candidate - behaviour) @ (2 * UP_RATES - 1)).mean())


def test_estimates_are_unbiased_and_their_intervals_cover_the_truth() -> None:
    """200 worlds: DR and SNIPS differences average to the truth; 95 % intervals hold it at least 90 % of the time."""
    errors, covered = [], []
    for sim in range(200):
        logs, candidate, baseline, truth = world(seeded(sim, "world"))
        rng = seeded(sim, "draws")
        found = compare(logs, candidate, baseline, rng, max_weight=np.inf, level=0.95, num_resamples=300)
        pair = (found.difference, found.difference_snips)
        errors.append([interval.mean - truth for interval in pair])
        covered.append([interval.lo <= truth <= interval.hi for interval in pair])
    bias, spread = np.mean(errors, 0), np.std(errors, 0)
    assert (np.abs(bias) < 3 * spread / np.sqrt(200)).all()
    assert (np.mean(covered, 0) >= 0.90).all()


def test_doubly_robust_is_unbiased_under_a_wrong_model_and_the_model_alone_is_not() -> None:
    """The control: the same absurd q without its correction is off by far."""
    corrected, alone = [], []
    for sim in range(200):
        logs, candidate, baseline, truth = world(seeded(sim, "world"))
        wrong_q = np.tile([-1.0, 0.0, 1.0], (len(logs), 1))
        values = [doubly_robust(logs, target, wrong_q, np.inf) for target in (candidate, baseline)]
        corrected.append((values[0] - values[1]).mean() - truth)
        alone.append(((candidate - baseline) * wrong_q).sum(1).mean() - truth)
    assert abs(np.mean(corrected)) < 3 * np.std(corrected) / np.sqrt(200)
    assert abs(np.mean(alone)) > 0.1


def test_paired_difference_is_sharper_than_two_separate_estimates() -> None:
    """What makes the gate possible at 300 rows."""
    logs, candidate, baseline, _ = world(seeded(0, "world"))
    found = compare(logs, candidate, baseline, seeded(0, "draws"))
    width = found.difference.hi - found.difference.lo
    separate = np.hypot(found.candidate.hi - found.candidate.lo, found.baseline.hi - found.baseline.lo)
    assert width < 0.5 * separate


def test_a_policy_does_not_differ_from_itself() -> None:
    """Exactly zero, interval included."""
    logs, candidate, _, _ = world(seeded(1, "world"))
    found = compare(logs, candidate, candidate, seeded(1, "draws"))
    assert (found.points, found.lowest_points) == (0.0, 0.0)


def test_one_row_equals_the_hand_calculation() -> None:
    """mu = (.8, .2), pi = (.4, .6), act 1 drew +1, q = (.5, -.5).

    DR = .4*.5 - .6*.5 + w (1 + .5): w = 3 gives -.1 + 4.5 = 4.4; truncated at 2, -.1 + 3 = 2.9.
    """
    logs = LoggedChoices(np.array([[0.8, 0.2]]), np.array([1]), np.array([1.0]), np.array([0]))
    target, q = np.array([[0.4, 0.6]]), np.array([[0.5, -0.5]])
    assert importance(logs, target).tolist() == pytest.approx([3.0])
    assert doubly_robust(logs, target, q, np.inf).tolist() == pytest.approx([4.4])
    assert doubly_robust(logs, target, q, 2.0).tolist() == pytest.approx([2.9])


def test_direct_model_recovers_a_line_and_flattens_the_behaviour_policy() -> None:
    """Without ridge: r = -1 + 2 p exactly; sqrt(.64, .16, .04, .16) renormalised is (.4, .2, .1, .2) / .9 ... by hand."""
    p = np.array([0.1, 0.4, 0.9])
    assert fit_direct_model(p, 2 * p - 1, ridge=0.0) == pytest.approx((-1.0, 2.0))
    # roots .8, .4, .2, .4 sum to 1.8
    flattened = confidence(np.array([[0.64, 0.16, 0.04, 0.16]]))
    assert flattened[0].tolist() == pytest.approx([0.8 / 1.8, 0.4 / 1.8, 0.2 / 1.8, 0.4 / 1.8])


def test_a_conversation_never_informs_its_own_direct_model() -> None:
    """Changing one conversation's rewards leaves its own q as it was and moves the others'."""
    logs, _, _, _ = world(seeded(2, "world"))
    own = logs.conversations_B == 7
    flipped = LoggedChoices(
        logs.behaviour_B_A, logs.chosen_B, np.where(own, -logs.rewards_B, logs.rewards_B), logs.conversations_B
    )
    before, after = cross_fitted(logs), cross_fitted(flipped)
    np.testing.assert_array_equal(before[own], after[own])
    assert not np.array_equal(before[~own], after[~own])


def test_careless_raters_shrink_the_gap_and_nonsense_keeps_it_in_range() -> None:
    """The gap is what a right answer is worth in reward; it never reaches 0, which would divide by it."""
    rng = seeded(3, "world")
    behaviour = softmax(3 * rng.normal(size=(4000, 4)))
    chosen_B = (behaviour.cumsum(1) > rng.random((4000, 1))).argmax(1)
    certainty = confidence(behaviour)[np.arange(4000), chosen_B]

    def gap(up: Floats) -> float:
        rewards = np.where(rng.random(4000) < up, 1.0, -1.0)
        return reward_gap(LoggedChoices(behaviour, chosen_B, rewards, np.arange(4000)))

    assert gap(0.1 + 0.85 * certainty) == pytest.approx(1.7, abs=0.15)
    assert gap(0.48 + 0.39 * certainty) == pytest.approx(0.78, abs=0.15)
    assert gap(np.full(4000, 0.5)) == 0.3


def test_impossible_logs_are_refused() -> None:
    """A chosen act without propensity would be an infinite weight; a ragged log is no log."""
    with pytest.raises(ValueError, match="propensity"):
        LoggedChoices(np.array([[1.0, 0.0]]), np.array([1]), np.array([1.0]), np.array([0]))
    with pytest.raises(ValueError, match="expected 1 of each"):
        LoggedChoices(np.array([[1.0, 0.0]]), np.array([0, 0]), np.array([1.0]), np.array([0]))
    logs, candidate, baseline, _ = world(seeded(0, "world"))
    with pytest.raises(ValueError, match="expected shape"):
        compare(logs, candidate[:, :2], baseline, seeded(0, "draws"))
