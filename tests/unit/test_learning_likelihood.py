"""The modelled thumb: its loss by hand, where its optimum lies, and the noise found again from thumbs alone."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from online_learning.algorithms.likelihood import calibrated_noise, estimate_noise, likelihood, tempered
from online_learning.config import LikelihoodConfig
from tests.loss_inputs import log_of, loss_inputs, of, policy_of, random_loss_inputs

CONFIG = LikelihoodConfig(p_right=0.9, p_wrong=0.2, kl_start_coef=0.0)


def test_loss_equals_the_hand_calculation() -> None:
    """P(up) is .2 + .7 * .5 = .55 for the liked row and .2 + .7 * .2 = .34 for the disliked."""
    out = likelihood(loss_inputs(weights_B=of(1.0, 0.5)), CONFIG)
    assert out.loss.item() == pytest.approx(-(math.log(0.55) + 0.5 * math.log(0.66)) / 2)
    assert out.metrics["p_up"].item() == pytest.approx((0.55 + 0.34) / 2)
    assert out.metrics["brier"].item() == pytest.approx((0.45**2 + 0.34**2) / 2)


def test_gradient_equals_the_formula_row_by_row() -> None:
    """In the logits: -w (p_right - p_wrong) (up / P - down / (1 - P)) pi (onehot - pi) / B."""
    logits, batch = random_loss_inputs()
    leaf = logits.clone().requires_grad_()
    now = replace(batch, act_logprobs_B_A=policy_of(leaf, batch.legal_mask_B_A))
    (grad,) = torch.autograd.grad(likelihood(now, CONFIG).loss, leaf)
    for row in range(6):
        pi = [math.exp(x) for x in policy_of(logits, batch.legal_mask_B_A)[row].tolist()]
        chosen, weight = (
            int(batch.chosen_B[row]),
            batch.weights_B[row].item() * min(1, abs(batch.returns_B[row].item())),
        )
        p_up = 0.2 + 0.7 * pi[chosen]
        pull = 0.7 / p_up if batch.returns_B[row].item() > 0 else -0.7 / (1 - p_up)
        slope = [-weight * pull * pi[chosen] * ((act == chosen) - p) / 6 for act, p in enumerate(pi)]
        assert grad[row].tolist() == pytest.approx(slope)


def expected_slope(truth: list[float], mu: list[float], config: LikelihoodConfig) -> Tensor:
    """Gradient in the logits at pi = truth, over all acts and thumbs weighted by how often they happen (noise .9, .2)."""
    logits = log_of(truth)[0].requires_grad_()
    acts, ups = range(len(truth)), (1.0, -1.0)
    rows = [(act, up) for act in acts for up in ups]
    right = {act: 0.2 + 0.7 * truth[act] for act in acts}
    often = [mu[act] * (right[act] if up > 0 else 1 - right[act]) for act, up in rows]
    same = log_of(*[truth] * len(rows))
    batch = loss_inputs(
        act_logprobs_B_A=logits.log_softmax(0).expand(len(rows), -1), chosen_B=torch.tensor([act for act, _ in rows]),
        legal_mask_B_A=torch.ones(len(rows), len(truth), dtype=torch.bool), returns_B=of(*(up for _, up in rows)),
        weights_B=of(*often), advantages_B=of(*often), values_B=of(*often), mu_logprob_B=of(*often),
        prox_logprobs_B_A=same, champion_logprobs_B_A=same, start_logprobs_B_A=same,
    )  # fmt: skip
    return torch.autograd.grad(likelihood(batch, config).loss, logits)[0]


@pytest.mark.parametrize("mu", [[0.6, 0.3, 0.1], [0.1, 0.1, 0.8]])
def test_the_truth_is_the_optimum_under_any_behaviour_policy(mu: list[float]) -> None:
    """Where act a is right with probability truth(a), pi = truth has no slope, without any importance weight."""
    assert expected_slope([0.6, 0.3, 0.1], mu, CONFIG).tolist() == pytest.approx([0.0] * 3, abs=1e-12)


def test_with_the_wrong_noise_the_optimum_is_elsewhere() -> None:
    """The control, and the reason for `estimate_noise`: people are noisier than believed."""
    believed = LikelihoodConfig(p_right=0.99, p_wrong=0.01, kl_start_coef=0.0)
    assert expected_slope([0.6, 0.3, 0.1], [0.6, 0.3, 0.1], believed).abs().max().item() > 1e-3


def test_one_false_thumb_pulls_no_harder_than_the_noise_allows() -> None:
    """Up on an act held impossible: d loss / d pi is (p_right - p_wrong) / p_wrong, not infinite as with p_wrong 0."""
    probability = of(1e-9, 0.5).requires_grad_()
    logprobs = torch.stack([probability.log(), (1 - probability).log()], 1)
    batch = loss_inputs(act_logprobs_B_A=logprobs, returns_B=of(1.0, 1.0))
    (slope,) = torch.autograd.grad(likelihood(batch, CONFIG).loss, probability)
    assert slope[0].item() == pytest.approx(-0.7 / 0.2 / 2, rel=1e-6)


def thumbs(p_right: float, p_wrong: float, rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Calibrated beliefs and the thumbs of people with this noise."""
    rng = torch.Generator().manual_seed(seed)
    belief = torch.rand(rows, generator=rng, dtype=torch.float64)
    right = torch.rand(rows, generator=rng, dtype=torch.float64) < belief
    chance = torch.where(right, p_right, p_wrong)
    return belief, torch.rand(rows, generator=rng) < chance


def log_likelihood(belief: Tensor, up: Tensor, p_right: float, p_wrong: float) -> float:
    p_up = p_wrong + (p_right - p_wrong) * belief
    return torch.where(up, p_up, 1 - p_up).log().sum().item()


def standard_errors(belief: Tensor, p_right: float, p_wrong: float) -> list[float]:
    """From the Fisher information of (p_right, p_wrong): sum of d d' / (P (1 - P)), with d = (belief, 1 - belief)."""
    p_up = p_wrong + (p_right - p_wrong) * belief
    slopes = torch.stack([belief, 1 - belief], 1)
    information = (slopes / (p_up * (1 - p_up))[:, None]).T @ slopes
    return torch.linalg.inv(information).diagonal().sqrt().tolist()


@pytest.mark.parametrize(("p_right", "p_wrong"), [(0.95, 0.10), (0.8, 0.3), (0.6, 0.4)])
def test_planted_noise_is_found_within_sampling_error(p_right: float, p_wrong: float) -> None:
    """Ten samples of 2,000 thumbs: each within 4 standard errors, their mean within 4 of the mean's."""
    found = [estimate_noise(*thumbs(p_right, p_wrong, 2000, seed)) for seed in range(10)]
    errors = standard_errors(thumbs(p_right, p_wrong, 2000, 0)[0], p_right, p_wrong)
    for planted, estimates, error in zip((p_right, p_wrong), zip(*found, strict=True), errors, strict=True):
        assert all(abs(estimate - planted) < 4 * error for estimate in estimates)
        assert abs(sum(estimates) / 10 - planted) < 4 * error / math.sqrt(10)


def test_the_estimate_is_the_likeliest_of_a_grid() -> None:
    """An independent slow search: no pair on a grid of thousandths explains the thumbs better."""
    belief, up = thumbs(0.85, 0.25, 400, 1)
    p_right, p_wrong = estimate_noise(belief, up, guess_rows=1e-9)
    best = log_likelihood(belief, up, p_right, p_wrong)
    around = [(p_right + i * 1e-3, p_wrong + j * 1e-3) for i in range(-20, 21) for j in range(-20, 21)]
    assert all(log_likelihood(belief, up, *pair) <= best + 1e-6 for pair in around)


def test_the_start_of_the_search_does_not_matter() -> None:
    """The log-likelihood is concave: from either side the same answer."""
    data = thumbs(0.8, 0.2, 500, 2)
    far, near = (estimate_noise(*data, guess=guess, guess_rows=1e-6) for guess in ((0.51, 0.49), (0.99, 0.01)))
    assert far == pytest.approx(near, abs=1e-3)


def test_without_thumbs_the_guess_stands_and_gives_way_as_they_come() -> None:
    """Few rows move it a little, many a lot."""
    belief, up = thumbs(0.6, 0.5, 4000, 3)
    after = [estimate_noise(belief[:rows], up[:rows], guess_rows=20.0)[1] for rows in (0, 20, 400, 4000)]
    assert after[0] == pytest.approx(0.1)
    assert all(earlier < later for earlier, later in pairwise(after))
    assert after[-1] == pytest.approx(0.5, abs=0.05)


def test_beliefs_are_the_policy_at_a_temperature_of_their_own() -> None:
    """Acting at .02 and believing at .04: the square root of pi, normalised; .2 and .8 become 1/3 and 2/3."""
    config = replace(CONFIG, belief_temperature=0.04)
    out = likelihood(loss_inputs(temperatures_B=of(0.02, 0.02)), config)
    assert out.metrics["p_up"].item() == pytest.approx((0.55 + 0.2 + 0.7 / 3) / 2)


def test_what_an_operator_says_is_nearly_certain() -> None:
    """The liked row of one who knows: P(up) is .01 + .98 * .5 = .5, whatever raters are like."""
    out = likelihood(loss_inputs(certain_B=torch.tensor([True, False])), CONFIG)
    assert out.loss.item() == pytest.approx(-(math.log(0.5) + math.log(0.66)) / 2)


def test_a_reward_counts_by_its_size_and_none_says_nothing() -> None:
    """Half a thumb is half the argument, twice a thumb is one thumb."""
    full, half, none, double = (
        likelihood(loss_inputs(returns_B=of(size, -size)), CONFIG).loss.item() for size in (1.0, 0.5, 0.0, 2.0)
    )
    assert (half, none, double) == pytest.approx((full / 2, 0.0, full))


def test_unsure_beliefs_do_not_pass_for_people_who_never_err() -> None:
    """Beliefs stated as the square root of what they should be: taken at their word, the answers are further off."""
    rng = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(4000, 4, generator=rng, dtype=torch.float64)
    truth = torch.multinomial(logits.softmax(-1), 1, generator=rng).squeeze(1)
    chosen = logits.argmax(1)
    chance = torch.where(chosen == truth, 0.9, 0.3)
    up = torch.rand(4000, generator=rng) < chance
    mask, stated = torch.ones(4000, 4, dtype=torch.bool), (logits / 2).log_softmax(-1)
    found = calibrated_noise(stated, mask, chosen, up)
    naive = calibrated_noise(stated, mask, chosen, up, powers=(1.0,))
    assert found == pytest.approx((0.9, 0.3), abs=0.04)
    assert abs(naive[0] - 0.9) + abs(naive[1] - 0.3) > 2 * (abs(found[0] - 0.9) + abs(found[1] - 0.3))


def test_padding_has_no_belief() -> None:
    """Whatever stands there, -inf included."""
    beliefs = tempered(log_of([0.2, 0.8, 0.5]), torch.tensor([[True, True, False]]), of(1.0))
    assert beliefs.tolist() == [pytest.approx([0.2, 0.8, 0.0])]


@pytest.mark.parametrize("up", [0.0, 1.0])
def test_raters_who_always_say_the_same_leave_a_noise_that_can_be_learned_with(up: float) -> None:
    """Nothing but downs, or ups: two rates inside 0..1, in order (a config with others is refused)."""
    logits = torch.randn(3000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask, chosen = torch.ones(3000, 4, dtype=torch.bool), logits.argmax(1)
    p_right, p_wrong = calibrated_noise(logits.log_softmax(-1), mask, chosen, torch.full((3000,), up))
    replace(CONFIG, p_right=p_right, p_wrong=p_wrong)
