"""Kahneman-Tversky optimisation over acts, with the start policy as the reference (KTO, arXiv 2402.01306). Pure.

    r    = log pi(chosen) - log pi_start(chosen)            what the policy has gained on the reference
    z0   = mean KL(pi || pi_start), no gradient             what it has gained on average: the reference point
    v    = desirable_coef   * sigmoid(beta (r - z0))        where people liked the choice
         = undesirable_coef * sigmoid(beta (z0 - r))        where they did not
    loss = mean(w (coef - v)) + KL - entropy

Needs no pairs, so it takes thumbs as they come. Both tails are flat: an act already far above the reference gains
nothing more, and one given up long ago costs nothing more; that bounds what a wrong thumb can do. The paper estimates
z0 from mismatched pairs of the batch and cuts it at 0; here the acts are few and the KL is exact, hence never negative.

R > threshold raises the chosen act's probability, else lowers it; the advantage is not read. There is no importance
weight: the reference, not the behaviour policy, is what a choice is compared with, so rows of any age will do.
"""

from __future__ import annotations

import torch

from online_learning.algorithms.terms import act_regulariser, mean_over_rows, outputs, refuse_text
from online_learning.algorithms.types import LossInputs, LossOutputs, gather_chosen, kl_over_acts
from online_learning.config import KTOConfig


def kto(inputs: LossInputs, config: KTOConfig) -> LossOutputs:
    """The loss of one minibatch and its metrics; `desirable` is a share of the rows, `gain_*` are means of r in nats."""
    refuse_text(inputs)
    logp_B_A, start_B_A, mask_B_A = inputs.act_logprobs_B_A, inputs.start_logprobs_B_A, inputs.legal_mask_B_A
    gain_B = gather_chosen(logp_B_A, inputs.chosen_B) - gather_chosen(start_B_A, inputs.chosen_B)
    gain_B = gain_B.clamp(-config.max_log_ratio, config.max_log_ratio)
    reference = mean_over_rows(kl_over_acts(logp_B_A, start_B_A, mask_B_A, config.max_log_ratio)).detach()
    up_B = (inputs.returns_B > config.threshold).to(gain_B)
    coef_B = config.desirable_coef * up_B + config.undesirable_coef * (1 - up_B)
    value_B = coef_B * torch.sigmoid(config.beta * (2 * up_B - 1) * (gain_B - reference))
    kto_loss = mean_over_rows(inputs.weights_B * (coef_B - value_B))
    regulariser, metrics = act_regulariser(inputs, config)
    return outputs(
        kto_loss + regulariser,
        metrics
        | {
            "kto_loss": kto_loss,
            "kto_reference": reference,
            "desirable": mean_over_rows(up_B),
            "gain_desirable": (up_B * gain_B).sum() / up_B.sum().clamp(min=1),
            "gain_undesirable": ((1 - up_B) * gain_B).sum() / (1 - up_B).sum().clamp(min=1),
        },
    )
