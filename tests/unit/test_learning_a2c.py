"""A2C's loss against numbers worked out by hand and a slow reference."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from online_learning.algorithms.a2c import a2c
from online_learning.config import A2CConfig
from tests.loss_inputs import loss_inputs, of, policy_of, random_loss_inputs

BARE = A2CConfig(kl_start_coef=0.0, value_coef=0.0)


def test_loss_equals_the_hand_calculation() -> None:
    """Truncated importance, advantage and value error of two rows."""
    batch = loss_inputs(mu_logprob_B=of(0.1, 0.4).log(), advantages_B=of(2.0, -1.0), values_B=of(0.5, 0.0))
    # row 0: min(.5/.1, 2) = 2 times A 2; row 1: .2/.4 = .5 times A -1. values: .5 ((.5 - 1)^2 + (0 + 1)^2) / 2
    policy, value = -(4 * math.log(0.5) - 0.5 * math.log(0.2)) / 2, 0.5 * (0.25 + 1.0) / 2
    out = a2c(batch, A2CConfig(value_coef=3.0))
    assert out.loss.item() == pytest.approx(policy + 3 * value)
    assert out.metrics["policy_loss"].item() == pytest.approx(policy)
    assert out.metrics["importance_mean"].item() == pytest.approx(1.25)
    assert out.metrics["ess"].item() == pytest.approx(6.25 / 4.25 / 2)


def test_gradient_equals_a_slow_reference() -> None:
    """Row by row: -w min(pi / mu, 2) A (onehot - pi) / B, with the weight left out of the derivative."""
    logits, batch = random_loss_inputs()
    leaf = logits.clone().requires_grad_()
    now = replace(batch, act_logprobs_B_A=policy_of(leaf, batch.legal_mask_B_A))
    (grad,) = torch.autograd.grad(a2c(now, BARE).loss, leaf)
    for row in range(6):
        pi = [math.exp(x) for x in policy_of(logits, batch.legal_mask_B_A)[row].tolist()]
        chosen = int(batch.chosen_B[row])
        weight = batch.weights_B[row].item() * min(pi[chosen] / math.exp(batch.mu_logprob_B[row].item()), 2.0)
        slope = [-weight * batch.advantages_B[row].item() * ((act == chosen) - p) / 6 for act, p in enumerate(pi)]
        assert grad[row].tolist() == pytest.approx(slope)


def test_zero_advantage_gives_zero_policy_gradient() -> None:
    """A reply exactly as good as expected moves nothing, whatever its importance."""
    batch = loss_inputs(advantages_B=of(0.0, 0.0), mu_logprob_B=of(0.1, 0.9).log())
    (grad,) = torch.autograd.grad(a2c(batch, BARE).loss, batch.act_logprobs_B_A)
    assert not grad.any()
