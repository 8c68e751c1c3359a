"""Advantage actor-critic over acts (A3C/A2C, arXiv 1602.01783). Pure.

    loss = -mean(w min(pi / mu, importance_cap) A log pi(chosen)) + value_coef / 2 mean(w (V - R)^2) + KL - entropy

The weight min(pi / mu, cap) has no gradient; it makes the step that of the policy as it is now although the choice was
made by another (truncated as in IMPALA, arXiv 1802.01561). Unlike in PPO nothing bounds how far rows that are visited
often push: few epochs, or a stronger KL.

A > 0 raises the chosen act's probability and A < 0 lowers it, in proportion to A; A = 0 gives no policy gradient.
Sums are divided by all rows, whatever their weights, as everywhere (see `ppo`).
"""

from __future__ import annotations

from torch import Tensor

from online_learning.algorithms.terms import (
    act_regulariser,
    ess_share,
    mean_over_rows,
    outputs,
    refuse_text,
    truncated_importance,
    value_error,
)
from online_learning.algorithms.types import LossInputs, LossOutputs, gather_chosen
from online_learning.config import A2CConfig, ReinforceConfig


def a2c(inputs: LossInputs, config: A2CConfig) -> LossOutputs:
    """The loss of one minibatch, with the advantages as they are given."""
    return policy_gradient(inputs, inputs.advantages_B, config)


def policy_gradient(inputs: LossInputs, advantages_B: Tensor, config: A2CConfig | ReinforceConfig) -> LossOutputs:
    """Importance-weighted policy gradient, value error and regulariser; `advantages_B` carry no gradient."""
    refuse_text(inputs)
    logprob_B = gather_chosen(inputs.act_logprobs_B_A, inputs.chosen_B)
    importance_B = truncated_importance(logprob_B, inputs.mu_logprob_B, config.importance_cap, config.max_log_ratio)
    policy_loss = -mean_over_rows(inputs.weights_B * importance_B * advantages_B * logprob_B)
    regulariser, metrics = act_regulariser(inputs, config)
    value_loss = value_error(inputs)
    return outputs(
        policy_loss + regulariser + config.value_coef * value_loss,
        metrics
        | {
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "advantage_mean": mean_over_rows(advantages_B),
            "importance_mean": mean_over_rows(importance_B),
            "ess": ess_share(inputs.weights_B * importance_B),
        },
    )
