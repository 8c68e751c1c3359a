"""KTO's loss against numbers by hand, its reference point, and its flat tails."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from online_learning.algorithms import LossInputs
from online_learning.algorithms.kto import kto
from online_learning.config import KTOConfig
from tests.loss_inputs import log_of, loss_inputs, of, policy_of, random_loss_inputs


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_loss_equals_the_hand_calculation() -> None:
    """One liked and one disliked choice of a policy that has moved from (.5, .5) to (.8, .2) in both states."""
    start = log_of([0.5, 0.5], [0.5, 0.5])
    batch = loss_inputs(
        act_logprobs_B_A=log_of([0.8, 0.2], [0.8, 0.2]), start_logprobs_B_A=start, chosen_B=torch.tensor([0, 1])
    )
    # r = ln 1.6 and ln .4; z0 = .8 ln 1.6 + .2 ln .4; liked: 2 s(.5 (r - z0)); disliked: 3 s(.5 (z0 - r))
    z0 = 0.8 * math.log(1.6) + 0.2 * math.log(0.4)
    liked = 2 * (1 - sigmoid(0.5 * (math.log(1.6) - z0)))
    disliked = 3 * (1 - sigmoid(0.5 * (z0 - math.log(0.4))))
    out = kto(batch, KTOConfig(beta=0.5, desirable_coef=2.0, undesirable_coef=3.0))
    assert out.loss.item() == pytest.approx((liked + disliked) / 2)
    assert out.metrics["kto_reference"].item() == pytest.approx(z0)
    assert out.metrics["gain_desirable"].item() == pytest.approx(math.log(1.6))
    assert out.metrics["gain_undesirable"].item() == pytest.approx(math.log(0.4))


def test_first_step_costs_half_and_pulls_by_a_quarter_of_beta() -> None:
    """At the start r = z0 = 0 and s'(0) = 1/4: the gradient in log pi is -+ beta coef / 4 / B."""
    batch = loss_inputs()
    out = kto(batch, KTOConfig(beta=0.4))
    assert out.loss.item() == pytest.approx(0.5)
    (grad,) = torch.autograd.grad(out.loss, batch.act_logprobs_B_A)
    assert grad[:, 0].tolist() == pytest.approx([-0.05, 0.05])


def slow_kto(batch: LossInputs, config: KTOConfig, reference: float) -> float:
    """The paper's definition in plain Python, with the reference point given."""
    total = 0.0
    for row in range(len(batch.chosen_B)):
        act = int(batch.chosen_B[row])
        gain = (batch.act_logprobs_B_A[row, act] - batch.start_logprobs_B_A[row, act]).item()
        liked = batch.returns_B[row].item() > config.threshold
        coef = config.desirable_coef if liked else config.undesirable_coef
        value = coef * sigmoid(config.beta * (gain - reference if liked else reference - gain))
        total += batch.weights_B[row].item() * (coef - value)
    return total / len(batch.chosen_B)


@pytest.mark.parametrize("seed", range(3))
def test_gradient_equals_finite_differences_with_the_reference_held(seed: int) -> None:
    """z0 is where the policy stands, not something to be learned: no gradient flows through it."""
    config = KTOConfig(beta=0.7, desirable_coef=1.3)
    logits, batch = random_loss_inputs(seed)

    def at(logits: Tensor) -> LossInputs:
        return replace(batch, act_logprobs_B_A=policy_of(logits, batch.legal_mask_B_A))

    leaf = logits.clone().requires_grad_()
    out = kto(at(leaf), config)
    (grad,) = torch.autograd.grad(out.loss, leaf)
    reference = out.metrics["kto_reference"].item()
    assert out.loss.item() == pytest.approx(slow_kto(at(logits), config, reference))
    for place in ((0, 0), (1, 2), (3, 3), (5, 1)):
        nudge = torch.zeros_like(logits)
        nudge[place] = 1e-6
        up, down = (slow_kto(at(logits + sign * nudge), config, reference) for sign in (1, -1))
        assert grad[place].item() == pytest.approx((up - down) / 2e-6, abs=1e-7)


def test_a_choice_long_given_up_costs_no_more() -> None:
    """The tail is flat: a disliked act at e^-15 of the start's probability has hardly any gradient."""
    given_up = log_of([math.exp(-15) / 2, 1 - math.exp(-15) / 2], [0.2, 0.8]).requires_grad_()
    batch = loss_inputs(act_logprobs_B_A=given_up, returns_B=of(-1.0, -1.0))
    (grad,) = torch.autograd.grad(kto(batch, KTOConfig(beta=1.0)).loss, given_up)
    assert abs(grad[0, 0].item()) < 1e-6
    assert grad[1, 0].item() > 0.1
