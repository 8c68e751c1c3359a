"""Imitation over acts: supervised where somebody said what is right, filtered to positives elsewhere. Pure.

    loss = -mean(w label_coef sum_a label(a) log pi(a))     rows with a label: an operator's correction
           -mean(w [R > threshold] log pi(chosen))          rows without: imitate what people liked
           + KL - entropy

Filtered behaviour cloning: learning from disliked choices is left out altogether (CRR, arXiv 2006.15134, with the
binary filter; positives only won on live users in ReSpect, arXiv 2410.13852). There is no importance weight, and the
price is that it follows how *often* an act was liked, not how reliably: a wrong act tried twenty times collects more
mistaken likes than the right one tried five times collects true ones.

The sign of the advantage plays no part: R > threshold raises the chosen act's probability, all else leaves it alone.
With `label_coef` 0 a labelled row counts like any other.
"""

from __future__ import annotations

from torch import Tensor

from online_learning.algorithms.terms import act_regulariser, mean_over_rows, outputs, refuse_text
from online_learning.algorithms.types import LossInputs, LossOutputs, fill_illegal, gather_chosen
from online_learning.config import ImitationConfig


def imitation(inputs: LossInputs, config: ImitationConfig) -> LossOutputs:
    """The loss of one minibatch and its metrics; `labelled` and `imitated` are shares of the rows."""
    refuse_text(inputs)
    label_B_A = _labels(inputs, config)
    labelled_B = (label_B_A.sum(1) > 0).to(label_B_A)
    imitated_B = (1 - labelled_B) * (inputs.returns_B > config.threshold)
    logp_B_A = fill_illegal(inputs.act_logprobs_B_A, inputs.legal_mask_B_A)
    label_loss = -mean_over_rows(inputs.weights_B * (label_B_A * logp_B_A).sum(1))
    chosen_B = gather_chosen(logp_B_A, inputs.chosen_B)
    imitation_loss = -mean_over_rows(inputs.weights_B * imitated_B * chosen_B)
    regulariser, metrics = act_regulariser(inputs, config)
    return outputs(
        config.label_coef * label_loss + imitation_loss + regulariser,
        metrics
        | {
            "label_loss": label_loss,
            "imitation_loss": imitation_loss,
            "labelled": mean_over_rows(labelled_B),
            "imitated": mean_over_rows(imitated_B),
        },
    )


def _labels(inputs: LossInputs, config: ImitationConfig) -> Tensor:
    """Label probabilities over the legal acts, zero where there is none to go by: [B, A]."""
    if inputs.label_probs_B_A is None or config.label_coef == 0:
        return inputs.act_logprobs_B_A.new_zeros(inputs.act_logprobs_B_A.shape)
    return inputs.label_probs_B_A.masked_fill(~inputs.legal_mask_B_A, 0.0)
