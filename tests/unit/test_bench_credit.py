"""`bench credit`: the outcome reaches every turn, a mark only its own, and a rule weighs what it has shown to know."""

from __future__ import annotations

import numpy as np
import pytest

from online_learning.bench.credit import (
    MARKS,
    NUM_CHOICES,
    TURNS,
    Chains,
    improved,
    learned_success,
    log_chains,
    measure,
    rule_weight,
    softmax,
    success_probability,
    turn_credit,
)
from online_learning.statistics import Floats, seeded


def chains(marks: list[list[float]], success: list[float]) -> Chains:
    return Chains(np.zeros((len(marks), TURNS), np.int64), np.array(marks), np.array(success))


def test_the_outcome_reaches_every_turn_and_a_mark_only_its_own() -> None:
    """Success and failure: V = 0, so +1 and -1 at each of the four turns. One good mark in eight; mean -0.75.

    At weight 0.5 the marked turn gets 0.5 * 1.75 more, every other turn 0.5 * -0.25.
    """
    played = chains([[1, -1, -1, -1], [-1, -1, -1, -1]], [1, 0])
    assert turn_credit(played, 0.0) == pytest.approx(np.array([[1.0] * 4, [-1.0] * 4]))
    assert turn_credit(played, 0.5) == pytest.approx(
        np.array([[1.875, 0.875, 0.875, 0.875], [-1.125, -1.125, -1.125, -1.125]])
    )


def test_what_a_policy_may_expect_is_not_credited() -> None:
    """Three of four succeed: V = 0.5, so success earns 0.5 and failure -1.5; they sum to nothing."""
    credit = turn_credit(chains([[1.0] * 4] * 4, [1, 1, 1, 0]), 1.0)
    assert credit[:, 0].tolist() == pytest.approx([0.5, 0.5, 0.5, -1.5])
    assert credit.sum() == pytest.approx(0.0)


def test_a_rule_that_tells_success_apart_weighs_one_its_opposite_minus_one() -> None:
    """AUC 1 and 0."""
    marks = np.repeat(np.array([[1.0] * 4, [-1.0] * 4]), 50, axis=0)
    success = np.repeat([1.0, 0.0], 50)
    assert rule_weight(marks, success, seeded(0, "t")) == pytest.approx(1.0)
    assert rule_weight(-marks, success, seeded(0, "t")) == pytest.approx(-1.0)


def test_a_rule_that_has_not_shown_anything_weighs_nothing() -> None:
    """The same marks for all; two conversations; outcomes of one kind; marks drawn at random."""
    rng = seeded(0, "t")
    assert rule_weight(np.ones((40, 4)), np.repeat([1.0, 0.0], 20), rng) == 0.0
    assert rule_weight(np.array([[1.0], [-1.0]]), np.array([1.0, 1.0]), rng) == 0.0
    drawn = [
        rule_weight(rng.choice([-1.0, 1.0], (200, 4)), rng.integers(0, 2, 200).astype(np.float64), rng)
        for _ in range(20)
    ]
    assert sum(weight != 0 for weight in drawn) <= 4


def test_the_step_follows_the_gradient_of_the_credited_log_likelihood() -> None:
    """Finite differences of mean_c sum_n A log pi(choice), at random logits, choices and credits."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(TURNS, NUM_CHOICES))
    played = Chains(rng.integers(0, NUM_CHOICES, (30, TURNS)), np.ones((30, TURNS)), np.ones(30))
    credit = rng.normal(size=(30, TURNS))

    def objective(at: Floats) -> float:
        logged = np.log(softmax(at))[np.arange(TURNS), played.choices_C_N]
        return float((credit * logged).mean(0).sum())

    step = improved(logits, played, credit) - logits
    eps = 1e-6
    for turn, choice in np.ndindex(logits.shape):
        nudge = np.zeros_like(logits)
        nudge[turn, choice] = eps
        slope = (objective(logits + nudge) - objective(logits - nudge)) / (2 * eps)
        assert step[turn, choice] == pytest.approx(2.0 * slope, abs=1e-6)  # STEP * TURNS = 2


def test_chains_are_drawn_as_their_world_says() -> None:
    """20,000 conversations, uniform: a third of choices each, marks by choice, success 0.1 + 0.8 / 3."""
    played = log_chains(np.full((TURNS, NUM_CHOICES), 1 / 3), "flattering", 20_000, np.random.default_rng(0))
    for choice, good in enumerate(MARKS["flattering"]):
        here = played.choices_C_N == choice
        assert here.mean() == pytest.approx(1 / 3, abs=0.01)
        assert (played.marks_C_N[here] > 0).mean() == pytest.approx(good, abs=0.02)
    assert played.success_C.mean() == pytest.approx(float(success_probability(np.array(TURNS / 3))), abs=0.02)


def test_trusting_a_flattering_rule_costs_success_and_weighing_it_does_not() -> None:
    """The control is the naive credit: it ends below where it started."""
    start = float(success_probability(np.array(TURNS / NUM_CHOICES)))
    success = {
        credit: learned_success("flattering", credit, seed=0)[0] for credit in ("outcome", "naive", "calibrated")
    }
    assert success["naive"] < start < success["outcome"]
    assert success["calibrated"] > success["outcome"] - 0.02


def test_an_honest_rule_helps_when_weighed() -> None:
    """Faster than by the outcome alone, with a weight above zero."""
    success, weight = learned_success("honest", "calibrated", seed=0)
    assert success > learned_success("honest", "outcome", seed=0)[0] + 0.03
    assert 0 < weight < 1


def test_the_report_names_every_rule_and_credit() -> None:
    """Start 0.1 + 0.8 / 3, best 0.9; one seed has no interval."""
    report = measure(0, 1)
    assert (report["start"], report["best"]) == (0.3667, 0.9)
    assert {rule: set(cells) for rule, cells in report["rules"].items()} == {
        rule: {"outcome", "naive", "calibrated"} for rule in MARKS
    }
    assert report["rules"]["noise"]["naive"]["diff_ci"] is None
