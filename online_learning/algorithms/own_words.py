"""Operators' own words: supervised, beside PPO over what versions wrote. Pure: no model, no optimiser, no I/O.

    loss = -mean log pi(token)                          over all tokens of the minibatch
           + coef * mean 0.5 (log pi - log pi_start)^2   the same tokens: a pull to the base model

The likelihood is that of the distribution that is sampled (after temperature and grounding mask), so what is learned is what
will be written. Nobody's policy wrote these tokens: there is no ratio and nothing to clip, and the second term is no
estimate of a divergence until the policy speaks as the operators do. What it does: a token's log-probability has no more
gradient where it is 1 / coef nats above the base model's, so words that are shown in every update are not learned by heart
without bound.
"""

from __future__ import annotations

from torch import Tensor

from online_learning.algorithms.terms import outputs
from online_learning.algorithms.types import LossOutputs


def own_words(logprobs_B_T: Tensor, start_B_T: Tensor, mask_B_T: Tensor, kl_start_coef: float) -> LossOutputs:
    """The loss of one minibatch and its metrics (nats a token). `start_B_T`: under the base model; no gradient."""
    padding, num_tokens = ~mask_B_T, mask_B_T.sum().clamp(min=1)
    logprobs_B_T = logprobs_B_T.masked_fill(padding, 0.0)
    gain_B_T = logprobs_B_T - start_B_T.masked_fill(padding, 0.0)
    nll = -logprobs_B_T.sum() / num_tokens
    pull = 0.5 * (gain_B_T**2).sum() / num_tokens
    return outputs(nll + kl_start_coef * pull, {"words_nll": nll, "words_gain": gain_B_T.sum() / num_tokens})
