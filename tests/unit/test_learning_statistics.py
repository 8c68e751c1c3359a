"""Intervals: coverage, clusters, and what is said when nothing is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from online_learning.statistics import (
    effective_sample_size,
    holm,
    mean_interval,
    paired_difference,
    probability_not_below,
    seeded,
)


def test_effective_sample_size_equals_the_hand_calculation() -> None:
    """Equal weights count fully; 3 and 1 are worth 16 / 10 rows; no weight, none."""
    assert effective_sample_size([0.5, 0.5, 0.5]) == pytest.approx(3.0)
    assert effective_sample_size([3.0, 1.0]) == pytest.approx(1.6)
    assert effective_sample_size([0.0, 0.0]) == 0.0


def test_interval_covers_the_mean_as_often_as_it_says() -> None:
    """A 95 % interval of 80 coin flips holds the true mean in 90-99 % of 300 samples."""
    rng = np.random.default_rng(0)
    covered = [
        (found := mean_interval(rng.random(80) < 0.3, rng, num_resamples=400)).lo <= 0.3 <= found.hi for _ in range(300)
    ]
    assert 0.90 <= np.mean(covered) <= 0.99


def test_clusters_widen_the_interval_of_rows_that_agree() -> None:
    """Twenty conversations of five equal turns are twenty facts, not a hundred; ignoring that is sqrt(5) too sharp."""
    rng = seeded(0, "test")
    values = np.repeat(rng.normal(size=20), 5)
    clusters = np.repeat(np.arange(20), 5)
    honest = mean_interval(values, rng, clusters)
    naive = mean_interval(values, rng)
    assert (honest.hi - honest.lo) / (naive.hi - naive.lo) == pytest.approx(math.sqrt(5), rel=0.15)


def test_paired_difference_of_equal_policies_is_exactly_zero() -> None:
    """Agreement cancels, however noisy the rows."""
    values = seeded(1, "test").normal(size=50)
    found = paired_difference(values, values, seeded(1, "draws"))
    assert (found.mean, found.lo, found.hi) == (0.0, 0.0, 0.0)


def test_one_cluster_says_that_nothing_is_known() -> None:
    """Resampling one conversation would give a width of zero: false certainty."""
    found = mean_interval([1.0, 0.0], seeded(0, "one"), ["c", "c"])
    assert (found.mean, found.lo, found.hi) == (0.5, -math.inf, math.inf)


def test_holm_refutes_step_by_step_as_worked_out_by_hand() -> None:
    """Of .005 <= .05/4, .01 <= .05/3, .03 > .05/2 and .04 only the first two fall; each alone, all four would."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == [True, False, False, True]
    assert [holm([p]) for p in (0.01, 0.04, 0.03, 0.005)] == [[True]] * 4
    assert holm([0.03, 0.02, 0.01], level=0.06) == [True, True, True]
    assert holm([]) == []


def test_the_chance_of_not_being_below_is_that_of_the_draws() -> None:
    """A loss and a gain: two draws lose together once in four times. One loss alone: never, but for the sample's own
    count. No difference: always."""
    assert probability_not_below([0, 1], [1, 0], seeded(0, "p")) == pytest.approx(0.75, abs=0.02)
    assert probability_not_below([0], [1], seeded(0, "p"), num_resamples=99) == 0.01
    assert probability_not_below([1, 1], [1, 1], seeded(0, "p")) == 1.0
    assert probability_not_below([1] * 80 + [0] * 20, [1] * 100, seeded(0, "p")) < 0.001
    with pytest.raises(ValueError, match="at least one row"):
        probability_not_below([], [], seeded(0, "p"))


def test_streams_repeat_by_name_and_differ_between_names() -> None:
    """Seeded randomness is a function of seed and purpose."""
    assert seeded(3, "gate").random() == seeded(3, "gate").random()
    assert seeded(3, "gate").random() != seeded(3, "eval").random()


def test_no_rows_and_unequal_rows_are_refused() -> None:
    """An empty mean is an error, not NaN."""
    with pytest.raises(ValueError, match="at least one row"):
        mean_interval([], seeded(0, "x"))
    with pytest.raises(ValueError, match="equal shapes"):
        paired_difference([1.0], [1.0, 2.0], seeded(0, "x"))
