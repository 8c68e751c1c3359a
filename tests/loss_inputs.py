"""Minibatches for the algorithms, in float64: two rows to work out by hand, and random ones with padding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from online_learning.algorithms import LossInputs


def log_of(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64).log()


def of(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def loss_inputs(**overrides: Any) -> LossInputs:
    """Two states of two acts, act 0 taken in both, liked in the first; every policy is the same until a test says so."""
    probs = log_of([0.5, 0.5], [0.2, 0.8])
    fields: dict[str, Any] = {
        "act_logprobs_B_A": probs.clone().requires_grad_(),
        "legal_mask_B_A": torch.ones(2, 2, dtype=torch.bool),
        "chosen_B": torch.tensor([0, 0]),
        "mu_logprob_B": probs[:, 0],
        "prox_logprobs_B_A": probs,
        "champion_logprobs_B_A": probs,
        "start_logprobs_B_A": probs,
        "advantages_B": of(1.0, -1.0),
        "returns_B": of(1.0, -1.0),
        "values_B": of(0.0, 0.0),
        "weights_B": of(1.0, 1.0),
    }
    return LossInputs(**(fields | overrides))


def policy_of(logits_B_A: Tensor, legal_mask_B_A: Tensor) -> Tensor:
    """Log-probabilities over the legal acts, -inf at padding."""
    return logits_B_A.masked_fill(~legal_mask_B_A, -torch.inf).log_softmax(1)


def random_loss_inputs(seed: int = 0) -> tuple[Tensor, LossInputs]:
    """Act logits and a batch of 6 rows and 4 acts, the last of them padding in the first three rows; all fields filled."""
    rng = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    mask = torch.ones(6, 4, dtype=torch.bool)
    mask[:3, 3] = False
    logits, chosen = draw(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    labels = torch.zeros(6, 4, dtype=torch.float64)
    labels[1, 2], labels[4] = 1.0, of(0.5, 0.0, 0.5, 0.0)
    batch = LossInputs(
        act_logprobs_B_A=policy_of(logits, mask), legal_mask_B_A=mask, chosen_B=chosen,
        mu_logprob_B=policy_of(draw(6, 4), mask)[torch.arange(6), chosen],
        prox_logprobs_B_A=policy_of(logits + 0.3 * draw(6, 4), mask), champion_logprobs_B_A=policy_of(draw(6, 4), mask),
        start_logprobs_B_A=policy_of(draw(6, 4), mask), advantages_B=draw(6), returns_B=draw(6), values_B=draw(6),
        weights_B=draw(6).abs(), label_probs_B_A=labels, q1_B_A=draw(6, 4), q2_B_A=draw(6, 4),
        target_q_B_A=draw(6, 4), v_B=draw(6), rewards_B=draw(6), next_v_B=draw(6),
    )  # fmt: skip
    return logits, batch
