"""Implicit Q-learning over acts (ILQL, arXiv 2206.11871; expectiles: IQL, arXiv 2110.06169). Pure.

    y      = reward + gamma V(s')                                      R where no bootstrap is given
    Q loss = mean(w ((Q1(s, a) - y)^2 + (Q2(s, a) - y)^2) / 2)         two estimates: the smaller errs on the safe side
    V loss = mean(w |expectile - [u < 0]| u^2),  u = Q_target(s, a) - V(s)
    CQL    = mean(w sum_i (logsumexp Q_i(s, .) - Q_i(s, a)))           acts that nobody took are not to look good
    policy = KL(pi* || pi),  pi* proportional to pi_start exp(beta Q_target), no gradient into Q

V is an expectile over the *stored* choices, so it approaches the best of what was tried, as `expectile` goes to 1,
without ever asking Q about an act outside the data. The paper adds beta (Q - V) to the start policy's logits when it
serves; V is the same for all acts and drops out. Here one network serves, so it is taught that distribution instead.

A large Q, for a chosen act or not, raises the act's probability relative to the start, a small one lowers it; the
advantage is not read. There is no importance weight: Q is learned for the act that was taken, whoever took it, so rows
of any age will do.
"""

from __future__ import annotations

import torch
from torch import Tensor

from online_learning.algorithms.terms import act_regulariser, mean_over_rows, outputs, refuse_text
from online_learning.algorithms.types import LossInputs, LossOutputs, gather_chosen, kl_over_acts
from online_learning.config import ILQLConfig


def ilql(inputs: LossInputs, config: ILQLConfig) -> LossOutputs:
    """The loss of one minibatch, for the Q heads, V and the policy together, and its metrics."""
    refuse_text(inputs)
    q1_B_A, q2_B_A, target_q_B_A, v_B = _heads(inputs)
    weights_B, chosen_B, mask_B_A = inputs.weights_B, inputs.chosen_B, inputs.legal_mask_B_A
    goal_B = bellman_target(inputs, config.gamma)
    errors_B = [(gather_chosen(q_B_A, chosen_B) - goal_B) ** 2 for q_B_A in (q1_B_A, q2_B_A)]
    q_loss = 0.5 * mean_over_rows(weights_B * (errors_B[0] + errors_B[1]))
    v_loss = mean_over_rows(weights_B * expectile_loss(gather_chosen(target_q_B_A, chosen_B) - v_B, config.expectile))
    excess_B = log_excess(q1_B_A, chosen_B, mask_B_A) + log_excess(q2_B_A, chosen_B, mask_B_A)
    conservative = mean_over_rows(weights_B * excess_B)
    wanted_B_A = improved_policy(inputs.start_logprobs_B_A, target_q_B_A, mask_B_A, config.beta)
    distance_B = kl_over_acts(wanted_B_A, inputs.act_logprobs_B_A, mask_B_A, config.max_log_ratio)
    policy_loss = mean_over_rows(weights_B * distance_B)
    regulariser, metrics = act_regulariser(inputs, config)
    loss = q_loss + config.value_coef * v_loss + config.conservative_coef * conservative
    return outputs(
        loss + config.policy_coef * policy_loss + regulariser,
        metrics
        | {
            "policy_loss": policy_loss,
            "q_loss": q_loss,
            "v_loss": v_loss,
            "conservative": conservative,
            "q_mean": mean_over_rows(gather_chosen(target_q_B_A, chosen_B)),
            "v_mean": mean_over_rows(v_B),
        },
    )


def bellman_target(inputs: LossInputs, gamma: float) -> Tensor:
    """What Q of the chosen act should say, without gradient: [B]."""
    if inputs.rewards_B is None or inputs.next_v_B is None:
        return inputs.returns_B
    return inputs.rewards_B + gamma * inputs.next_v_B.detach()


def expectile_loss(error_B: Tensor, expectile: float) -> Tensor:
    """|expectile - [error < 0]| error^2: with 0.7, being below the target costs 7/3 of being above it."""
    return torch.where(error_B < 0, 1 - expectile, expectile) * error_B**2


def log_excess(q_B_A: Tensor, chosen_B: Tensor, legal_mask_B_A: Tensor) -> Tensor:
    """-log softmax(Q)(chosen) over the legal acts: [B]; 0 only where the chosen act is the one legal act."""
    return q_B_A.masked_fill(~legal_mask_B_A, -torch.inf).logsumexp(1) - gather_chosen(q_B_A, chosen_B)


def improved_policy(start_B_A: Tensor, target_q_B_A: Tensor, legal_mask_B_A: Tensor, beta: float) -> Tensor:
    """log pi*: the start policy's, with beta Q added and normalised over the legal acts; no gradient; [B, A]."""
    logits_B_A = (start_B_A + beta * target_q_B_A).detach()
    return logits_B_A.masked_fill(~legal_mask_B_A, -torch.inf).log_softmax(1)


def _heads(inputs: LossInputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    q1_B_A, q2_B_A, target_q_B_A, v_B = inputs.q1_B_A, inputs.q2_B_A, inputs.target_q_B_A, inputs.v_B
    assert q1_B_A is not None and q2_B_A is not None, "ilql: expected Q fields"  # noqa: PT018 - one fact
    assert target_q_B_A is not None and v_B is not None  # noqa: PT018 - they come together
    return q1_B_A, q2_B_A, target_q_B_A.detach(), v_B
