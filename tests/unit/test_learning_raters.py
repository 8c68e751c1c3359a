"""Raters found from their thumbs: who looks, who presses at random, and what is left to learn from each."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from online_learning.raters import Raters, estimate_raters


def found(up_N: Tensor, logits_N_A: Tensor, person_N: Tensor, weight: float = 1.0) -> Raters:
    """From beliefs stated as they are; act 0 is always shown."""
    mask, chosen = torch.ones_like(logits_N_A, dtype=torch.bool), torch.zeros(len(up_N), dtype=torch.int64)
    return estimate_raters(
        logits_N_A.log_softmax(-1), mask, chosen, up_N, person_N, torch.full((len(up_N),), weight), rounds=40
    )


def thumbs(per_person: int, careless: float, count: int = 3000, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(up, logits, person, whether the person is careless) of people who look (.9 / .2) and of others."""
    rng = torch.Generator().manual_seed(seed)
    logits_N_A = 2 * torch.randn(count, 4, generator=rng, dtype=torch.float64)
    right_N = torch.multinomial(logits_N_A.softmax(-1), 1, generator=rng).squeeze(1) == 0
    person_N = torch.arange(count) // per_person
    careless_N = (torch.rand(int(person_N[-1]) + 1, generator=rng) < careless)[person_N]
    chance_N = torch.where(right_N, 0.9, 0.2).masked_fill(careless_N, 0.5)
    return torch.rand(count, generator=rng) < chance_N, logits_N_A, person_N, careless_N


@pytest.mark.parametrize("careless", [0.0, 0.3])
def test_rates_and_share_are_found(careless: float) -> None:
    """Forty thumbs a person. Where nobody is careless nobody is taken for it."""
    up, logits, person, is_careless = thumbs(40, careless)
    raters = found(up, logits, person)
    assert (raters.p_right, raters.p_wrong) == pytest.approx((0.9, 0.2), abs=0.05)
    assert raters.careless == pytest.approx(float(is_careless.float().mean()), abs=0.1)
    wrongly = ((raters.careless_N > 0.5) != is_careless).float().mean()
    assert wrongly < 0.1


def test_a_few_thumbs_each_tell_people_apart_by_degrees() -> None:
    """Five each: nobody is certain, but the careless are thought so far more than the others."""
    up, logits, person, is_careless = thumbs(5, 0.3)
    careless_N = found(up, logits, person).careless_N
    assert careless_N[is_careless].mean() > 2 * careless_N[~is_careless].mean()


def test_the_first_round_equals_the_hand_calculation() -> None:
    """One person, one thumb up on an act believed in by half: P(up) is .525 if careful and .5 if not, so careless is
    .1 * .5 / (.1 * .5 + .9 * .525); then the share is (.0957 + 1) / 11."""
    one = torch.zeros(1, dtype=torch.int64)
    raters = estimate_raters(
        torch.tensor([[0.5, 0.5]]).log(), torch.ones(1, 2, dtype=torch.bool), one, torch.tensor([True]), one,
        torch.ones(1), powers=(1.0,), rounds=1,
    )  # fmt: skip
    expected = 0.1 * 0.5 / (0.1 * 0.5 + 0.9 * 0.525)
    assert raters.careless_N.tolist() == pytest.approx([expected])
    assert raters.careless == pytest.approx((expected + 1) / 11)
    careful, was_right = 1 - expected, 0.5 * 0.95 / 0.525
    assert raters.p_right == pytest.approx((careful * was_right + 9 * 0.95) / (careful * was_right + 9))


def test_a_row_told_twice_by_halves_is_one_row() -> None:
    """Twins of another wording are no second witness against a person; as full rows they would be (the control)."""
    up, logits, person, _ = thumbs(5, 0.3, count=600)
    twice = (up.repeat(2), logits.repeat(2, 1), person.repeat(2))
    once, halves, doubled = found(up, logits, person), found(*twice, weight=0.5), found(*twice)
    torch.testing.assert_close(halves.careless_N[:600], once.careless_N)
    assert (doubled.careless_N[:600] - once.careless_N).abs().max() > 0.05


@pytest.mark.parametrize("up", [False, True])
def test_people_who_always_say_the_same_leave_rates_that_can_be_learned_with(up: bool) -> None:
    """Two rates inside 0..1, in order."""
    _, logits, person, _ = thumbs(5, 0.0, count=500)
    raters = found(torch.full((500,), up), logits, person)
    assert 0 < raters.p_wrong < raters.p_right < 1
