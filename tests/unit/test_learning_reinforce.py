"""REINFORCE: its baseline by hand, and that the baseline leaves the gradient unbiased."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from online_learning.algorithms import LossInputs
from online_learning.algorithms.reinforce import mean_of_others, reinforce
from online_learning.config import ReinforceConfig
from tests.loss_inputs import log_of, loss_inputs, of

BARE = ReinforceConfig(kl_start_coef=0.0, value_coef=0.0)


def test_baseline_is_the_mean_return_of_the_other_rows() -> None:
    """Returns 1, -1, 5 with trust 1, 1, 0: the third is in nobody's baseline and is compared with (1 - 1) / 2."""
    assert mean_of_others(of(1.0, -1.0, 5.0), of(1.0, 1.0, 0.0)).tolist() == pytest.approx([-1.0, 1.0, 0.0])
    # trust .5 for the second: row 0 sees only it, -1; row 2 sees (1 - .5) / 1.5
    assert mean_of_others(of(1.0, -1.0, 5.0), of(1.0, 0.5, 0.0)).tolist() == pytest.approx([-1.0, 1.0, 1 / 3])


@pytest.mark.parametrize("weight", [1.0, 0.3, 1e-9, 0.0])
def test_a_row_alone_is_compared_with_zero(weight: float) -> None:
    """There is nobody else: 0, not 0 / 0."""
    assert mean_of_others(of(0.7, 3.0), of(weight, 0.0))[0].item() == 0.0
    assert mean_of_others(of(0.7), of(weight)).item() == 0.0


def test_loss_equals_the_hand_calculation() -> None:
    """Advantages 1 - (-1) = 2 and -2; the given advantages are not read."""
    out = reinforce(loss_inputs(advantages_B=of(7.0, 7.0)), BARE)
    assert out.loss.item() == pytest.approx(-(2 * of(0.5).log() - 2 * of(0.2).log()).item() / 2)


def test_the_value_baseline_is_subtracted_without_gradient() -> None:
    """R - V = .25 and -1; V learns from its own error alone."""
    values = of(0.75, 0.0).requires_grad_()
    out = reinforce(loss_inputs(values_B=values), ReinforceConfig(baseline="value", kl_start_coef=0.0, value_coef=1.0))
    assert out.metrics["policy_loss"].item() == pytest.approx(-(0.25 * of(0.5).log() - of(0.2).log()).item() / 2)
    # d/dV of .5 (V - R)^2 / 2
    assert torch.autograd.grad(out.loss, values)[0].tolist() == pytest.approx([-0.125, 0.5])


def test_returns_that_are_all_alike_give_zero_policy_gradient() -> None:
    """Nothing was better than anything else."""
    batch = loss_inputs(returns_B=of(0.6, 0.6))
    (grad,) = torch.autograd.grad(reinforce(batch, BARE).loss, batch.act_logprobs_B_A)
    assert not grad.any()


def expected_gradient(probs: list[float], rewards: list[float], baseline: Any) -> Tensor:
    """E over all pairs of choices of the loss's gradient in the (shared) logits, by enumeration."""
    total = torch.zeros(len(probs), dtype=torch.float64)
    for pair in product(range(len(probs)), repeat=2):
        logits = log_of(probs)[0].requires_grad_()
        logprobs = logits.log_softmax(0).expand(2, -1)
        returns = of(*(rewards[act] for act in pair))
        batch = pair_of(logprobs, pair, returns)
        loss = baseline(batch, returns)
        total += probs[pair[0]] * probs[pair[1]] * torch.autograd.grad(loss, logits)[0]
    return total


def pair_of(logprobs_B_A: Tensor, pair: tuple[int, ...], returns: Tensor) -> LossInputs:
    """Two rows in the same state, on-policy."""
    same = {f"{name}_logprobs_B_A": logprobs_B_A.detach() for name in ("prox", "champion", "start")}
    chosen = torch.tensor(pair)
    mu = logprobs_B_A.detach()[torch.arange(2), chosen]
    return loss_inputs(
        act_logprobs_B_A=logprobs_B_A, chosen_B=chosen, mu_logprob_B=mu, returns_B=returns,
        legal_mask_B_A=torch.ones(2, logprobs_B_A.shape[1], dtype=torch.bool), **same,
    )  # fmt: skip


def true_gradient(probs: list[float], rewards: list[float]) -> list[float]:
    """Of -E[reward] in the logits: -pi(a) (r(a) - mean reward)."""
    mean = sum(p * r for p, r in zip(probs, rewards, strict=True))
    return [-p * (r - mean) for p, r in zip(probs, rewards, strict=True)]


def test_leaving_the_row_itself_out_keeps_the_gradient_unbiased() -> None:
    """Averaged over every outcome, two rows with each other's return as baseline follow the true gradient."""
    probs, rewards = [0.5, 0.3, 0.2], [1.0, -1.0, 0.4]
    found = expected_gradient(probs, rewards, lambda batch, _: reinforce(batch, BARE).loss)
    assert found.tolist() == pytest.approx(true_gradient(probs, rewards))


def test_a_baseline_with_the_row_itself_in_it_is_biased() -> None:
    """The control: against the mean of both rows the gradient is half as long."""
    probs, rewards = [0.5, 0.3, 0.2], [1.0, -1.0, 0.4]
    value = ReinforceConfig(baseline="value", kl_start_coef=0.0, value_coef=0.0)

    def against_the_mean(batch: LossInputs, returns: Tensor) -> Tensor:
        given = {name: getattr(batch, name) for name in LossInputs.__dataclass_fields__}
        return reinforce(LossInputs(**given | {"values_B": returns.mean().expand(2)}), value).loss

    half = [slope / 2 for slope in true_gradient(probs, rewards)]
    assert expected_gradient(probs, rewards, against_the_mean).tolist() == pytest.approx(half)
