"""Decoupled, dual-clipped PPO over acts and over generated tokens. Pure: no model, no optimiser, no I/O.

The policy term of one row, with A its advantage and r = pi / pi_prox:

    surrogate = min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)         PPO, arXiv 1707.06347; two sides 2503.14476
    surrogate = max(surrogate, dual_clip A)   where A < 0                dual clip, arXiv 1912.09729
    loss      = -stop_gradient(min(pi_prox / mu, importance_cap)) * surrogate

The ratio is against pi_prox, the policy at the start of the update, and the behaviour policy mu enters only as a
weight without gradient (decoupled PPO, arXiv 2110.00641; truncated as in IMPALA, arXiv 1802.01561), so old rows can
be replayed without the clip calling them moved before the first step.

What sign and clip do, in words:
- A > 0 (better than expected): raise the act's probability; beyond 1 + clip_high times pi_prox it has no gradient.
- A < 0 (worse): lower it; below 1 - clip_low it has no gradient. Where r has grown although A < 0, plain PPO's
  loss is -r A without bound, so one thumb down on a now likely act could outweigh a batch: past dual_clip it is cut.
- A = 0 gives no policy gradient; KL, entropy and value terms stay.

Sums are divided by the rows (tokens) counted *before* any mask or weight: a masked row must not make the others
louder, and a batch of distrusted rows must stay quiet.
"""

from __future__ import annotations

import torch
from torch import Tensor

from online_learning.algorithms.terms import act_regulariser, ess_share, outputs
from online_learning.algorithms.types import LossInputs, LossOutputs, gather_chosen
from online_learning.config import PPOConfig


def ppo(inputs: LossInputs, config: PPOConfig) -> LossOutputs:
    """The loss of one minibatch and its metrics (all scalars, nats where they are log-probabilities)."""
    act_loss, metrics = _act_loss(inputs, config)
    regulariser, regulariser_metrics = act_regulariser(inputs, config)
    value_loss = _value_loss(inputs, config)
    loss = act_loss + regulariser + config.value_coef * value_loss
    metrics |= regulariser_metrics | {"value_loss": value_loss}
    if inputs.token_logprobs_B_T is not None:
        text_loss, text_metrics = _text_loss(inputs, config)
        loss = loss + config.text_coef * text_loss
        metrics |= text_metrics
    return outputs(loss, metrics)


def clipped_surrogate(ratio: Tensor, advantages: Tensor, clip_low: float, clip_high: float, dual_clip: float) -> Tensor:
    """min(r A, clip(r) A), and for A < 0 never under dual_clip * A; elementwise, to be maximised."""
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high) * advantages
    surrogate = torch.minimum(ratio * advantages, clipped)
    # dual_clip may be inf, and inf * 0 is NaN: keep A = 0 out of the product
    bound = torch.where(advantages < 0, dual_clip * advantages.clamp(max=-1e-30), -torch.inf)
    return torch.maximum(surrogate, bound)


def importance_weight(prox_logprob: Tensor, mu_logprob: Tensor, advantages: Tensor, config: PPOConfig) -> Tensor:
    """min(pi_prox / mu, cap) without gradient: how often today's policy would have made the replayed choice."""
    log_weight = (prox_logprob - mu_logprob).clamp(-config.max_log_ratio, config.max_log_ratio)
    weight = log_weight.exp().clamp(max=config.importance_cap)
    floor = torch.where(advantages > 0, config.positive_importance_floor, 0.0).to(weight)
    return torch.maximum(weight, floor).detach()


def _ratio(logprob: Tensor, prox_logprob: Tensor, config: PPOConfig) -> tuple[Tensor, Tensor]:
    log_ratio = (logprob - prox_logprob).clamp(-config.max_log_ratio, config.max_log_ratio)
    return log_ratio.exp(), log_ratio


def _outside(ratio: Tensor, clip_low: float, clip_high: float) -> Tensor:
    return ((ratio < 1 - clip_low) | (ratio > 1 + clip_high)).to(ratio)


def _act_loss(inputs: LossInputs, config: PPOConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """The clipped term over chosen acts, averaged over all B rows, and how far the policy has moved."""
    prox_B = gather_chosen(inputs.prox_logprobs_B_A, inputs.chosen_B)
    ratio_B, log_ratio_B = _ratio(gather_chosen(inputs.act_logprobs_B_A, inputs.chosen_B), prox_B, config)
    importance_B = importance_weight(prox_B, inputs.mu_logprob_B, inputs.advantages_B, config)
    surrogate_B = clipped_surrogate(ratio_B, inputs.advantages_B, config.clip_low, config.clip_high, config.dual_clip)
    policy_loss = -(inputs.weights_B * importance_B * surrogate_B).mean()
    return policy_loss, {
        "policy_loss": policy_loss,
        "ratio_mean": ratio_B.mean(),
        "approx_kl": ((ratio_B - 1) - log_ratio_B).mean(),
        "clip_fraction": _outside(ratio_B, config.clip_low, config.clip_high).mean(),
        "importance_mean": importance_B.mean(),
        "ess": ess_share(inputs.weights_B * importance_B),
    }


def _value_loss(inputs: LossInputs, config: PPOConfig) -> Tensor:
    """Half the mean squared error of V; clipped, the larger of the two errors, so that V cannot leap."""
    error_B = (inputs.values_B - inputs.returns_B) ** 2
    if config.value_clip > 0 and inputs.prox_values_B is not None:
        moved_B = (inputs.values_B - inputs.prox_values_B).clamp(-config.value_clip, config.value_clip)
        error_B = torch.maximum(error_B, (inputs.prox_values_B + moved_B - inputs.returns_B) ** 2)
    return 0.5 * (inputs.weights_B * error_B).mean()


def _text_loss(inputs: LossInputs, config: PPOConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """The clipped term and the KL over generated tokens, both divided by all tokens of the minibatch.

    All tokens of a decision share its advantage. The KL to the champion is the k2 estimator, half the squared
    log-ratio: unlike k1 and k3 its gradient is that of the KL. k3 is what is reported.
    """
    logprob, mask, mu, prox, champion = _tokens(inputs)
    advantages_B_T = inputs.advantages_B[:, None].expand_as(logprob)
    ratio_B_T, log_ratio_B_T = _ratio(logprob, prox, config)
    importance_B_T = importance_weight(prox, mu, advantages_B_T, config)
    kept_B = _near_enough(prox - mu, mask, config)
    surrogate_B_T = clipped_surrogate(
        ratio_B_T, advantages_B_T, config.text_clip_low, config.text_clip_high, config.dual_clip
    )
    row_weight_B_T = (inputs.weights_B * kept_B)[:, None] * mask
    num_tokens = mask.sum().clamp(min=1)
    policy_loss = -(row_weight_B_T * importance_B_T * surrogate_B_T).sum() / num_tokens
    to_champion_B_T = (logprob - champion).clamp(-config.max_log_ratio, config.max_log_ratio)
    k2 = (0.5 * to_champion_B_T**2 * mask).sum() / num_tokens
    k3 = (((-to_champion_B_T).exp() - 1 + to_champion_B_T) * mask).sum() / num_tokens
    has_text_B = mask.amax(1)
    clipped_B_T = _outside(ratio_B_T, config.text_clip_low, config.text_clip_high)
    return policy_loss + config.kl_champion_coef * k2, {
        "text_policy_loss": policy_loss,
        "text_ratio_mean": (ratio_B_T * mask).sum() / num_tokens,
        "text_approx_kl": (((ratio_B_T - 1) - log_ratio_B_T) * mask).sum() / num_tokens,
        "text_clip_fraction": (clipped_B_T * mask).sum() / num_tokens,
        "text_kl_champion": k3,
        "text_masked_fraction": (has_text_B * (1 - kept_B)).sum() / has_text_B.sum().clamp(min=1),
    }


def _tokens(inputs: LossInputs) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(current, mask as float, mu, prox, champion), [B, T] each, with 0 at padding."""
    logprob, mask = inputs.token_logprobs_B_T, inputs.token_mask_B_T
    mu, prox, champion = inputs.token_mu_B_T, inputs.token_prox_B_T, inputs.token_champion_B_T
    assert logprob is not None and mask is not None  # noqa: PT018 - one fact: token fields come together
    assert mu is not None and prox is not None and champion is not None  # noqa: PT018
    padding = ~mask.bool()
    filled = [values.masked_fill(padding, 0.0) for values in (logprob, mu, prox, champion)]
    return filled[0], mask.to(logprob), filled[1], filled[2], filled[3]


def _near_enough(log_weight_B_T: Tensor, mask_B_T: Tensor, config: PPOConfig) -> Tensor:
    """1 for rows whose text is still plausible for pi_prox (geometric mean of pi_prox / mu in the band), else 0; [B]."""
    mean_B = (log_weight_B_T * mask_B_T).sum(1) / mask_B_T.sum(1).clamp(min=1)
    low, high = config.text_band
    return ((mean_B.exp() >= low) & (mean_B.exp() <= high)).to(mask_B_T)
