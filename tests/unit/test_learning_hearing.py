"""What follows from how people err: how firmly the head is held to the start."""

from __future__ import annotations

import pytest

from online_learning.config import LearnerConfig, LikelihoodConfig, PPOConfig
from online_learning.hearing import ridge_share

CONFIG = LearnerConfig(ridge_errors=0.05, ridge_rows=1000)


@pytest.mark.parametrize(
    ("p_right", "expected"), [(0.87, 1.0), (0.94, 1.0), (0.97, 0.6), (0.975, 0.5), (0.99, 1 / 3), (0.9999, 1 / 3)]
)
def test_the_prior_loosens_where_right_answers_are_never_refused(p_right: float, expected: float) -> None:
    """In full from five errors in a hundred on; three are three fifths; a third at least."""
    assert ridge_share(LikelihoodConfig(p_right=p_right), 5000, CONFIG) == pytest.approx(expected)


@pytest.mark.parametrize(("num_rows", "expected"), [(1, 1.0), (1000, 1.0), (1250, 0.8), (2000, 0.5), (9000, 1 / 3)])
def test_a_few_thumbs_do_not_loosen_it(num_rows: int, expected: float) -> None:
    """However true they are: in full up to a thousand rows, by half at two thousand."""
    assert ridge_share(LikelihoodConfig(p_right=0.999), num_rows, CONFIG) == pytest.approx(expected)


def test_the_prior_stays_whole_where_no_thumb_is_modelled_or_the_rule_is_off() -> None:
    """Other algorithms estimate nothing."""
    assert ridge_share(PPOConfig(), 5000, CONFIG) == 1.0
    assert ridge_share(LikelihoodConfig(p_right=0.999), 5000, LearnerConfig(ridge_errors=0.0)) == 1.0
