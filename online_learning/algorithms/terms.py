"""Terms that algorithms over acts share: distances, the value error, truncated importance. Pure.

All are means over the rows of the minibatch, weighted or not, so that algorithms can be compared by their metrics.
Generated text is learned by `ppo` alone; the others say so by `refuse_text`.

Shapes: B rows, A legal acts.
"""

from __future__ import annotations

from torch import Tensor

from online_learning.algorithms.types import LossInputs, LossOutputs, entropy_over_acts, kl_over_acts
from online_learning.config import ActTerms


def mean_over_rows(values_B: Tensor) -> Tensor:
    """The mean, and 0 (with a graph) where there is no row: the mean of nothing is NaN."""
    return values_B.mean() if len(values_B) else values_B.sum()


def act_regulariser(inputs: LossInputs, config: ActTerms) -> tuple[Tensor, dict[str, Tensor]]:
    """KL to the champion and to the start (exact over acts) less the entropy bonus; every row counts alike."""
    logp_B_A, mask_B_A, limit = inputs.act_logprobs_B_A, inputs.legal_mask_B_A, config.max_log_ratio
    kl_champion = mean_over_rows(kl_over_acts(logp_B_A, inputs.champion_logprobs_B_A, mask_B_A, limit))
    kl_start = mean_over_rows(kl_over_acts(logp_B_A, inputs.start_logprobs_B_A, mask_B_A, limit))
    kl_prox = mean_over_rows(kl_over_acts(inputs.prox_logprobs_B_A, logp_B_A.detach(), mask_B_A, limit))
    entropy = mean_over_rows(entropy_over_acts(logp_B_A, mask_B_A))
    loss = config.kl_champion_coef * kl_champion + config.kl_start_coef * kl_start - config.entropy_coef * entropy
    return loss, {"kl_champion": kl_champion, "kl_start": kl_start, "kl_prox": kl_prox, "entropy": entropy}


def value_error(inputs: LossInputs) -> Tensor:
    """Half the mean squared error of V against the returns, each row by its weight."""
    return 0.5 * mean_over_rows(inputs.weights_B * (inputs.values_B - inputs.returns_B) ** 2)


def truncated_importance(logprob_B: Tensor, mu_logprob_B: Tensor, cap: float, max_log_ratio: float) -> Tensor:
    """min(pi / mu, cap) without gradient: how often the policy would have made the stored choice (1802.01561)."""
    return (logprob_B - mu_logprob_B).detach().clamp(-max_log_ratio, max_log_ratio).exp().clamp(max=cap)


def ess_share(weights_B: Tensor) -> Tensor:
    """Kish's effective sample size over the number of rows, 0..1."""
    return weights_B.sum() ** 2 / (weights_B**2).sum().clamp(min=1e-12) / max(weights_B.numel(), 1)


def refuse_text(inputs: LossInputs) -> None:
    """An algorithm over acts given generated text would learn nothing from it, silently."""
    assert inputs.token_logprobs_B_T is None, "generated text: expected algorithm ppo, got one over acts"


def outputs(loss: Tensor, metrics: dict[str, Tensor]) -> LossOutputs:
    """The record, its metrics without their graphs."""
    return LossOutputs(loss, {name: value.detach() for name, value in (metrics | {"loss": loss}).items()})
