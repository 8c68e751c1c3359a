"""The thumb itself, modelled: maximum likelihood of what people pressed. Ours. Pure.

Each state has one right act, and the policy says how probable it is that it is a. The policy acts more sharply than it
believes (its temperature is low, so that it mostly gives its best answer), so beliefs are its scores at a temperature
of their own. A person presses up with probability p_right when the act was right and p_wrong when it was not:

    b(a | s)     = softmax over legal acts of score / belief_temperature  (= pi ^ (temperature / belief_temperature))
    P(up | s, a) = p_wrong + (p_right - p_wrong) b(a | s)
    loss         = -mean(w |R| [up log P + (1 - up) log(1 - P)]) + KL - entropy,     up = 1 where R > 0

Learning with a known noise model, in the manner of forward correction (arXiv 1609.03683) with a label that is only
ever seen through one act's yes or no. With a Gaussian prior on the weights (`LearnerConfig.ridge`) and passes over all
rows it is a maximum a posteriori fit, not a step. What follows from it:
- There is no importance weight and no baseline: given state and act, the thumb's probability does not depend on why
  the act was chosen, so rows of any policy and any age count in full.
- Up pulls like (p_right - p_wrong) / P: hard where the act was thought wrong. Down pushes like
  (p_right - p_wrong) / (1 - P): hard where it was thought right, hardly where it was thought wrong anyway. With
  p_wrong > 0 and p_right < 1 both are bounded: one false thumb cannot outweigh many true ones.
- Down on one act is an argument for the others, in the proportion in which they were believed.
- What an operator says is held nearly certain (`SLIP`) and tells nothing of how raters err.
- A wrong p_right or p_wrong bends the beliefs: `estimate_noise` finds them from the thumbs.

|R| above 1 counts as 1; a return of 0 says nothing. The advantage is not read.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from online_learning.algorithms.terms import act_regulariser, mean_over_rows, outputs, refuse_text
from online_learning.algorithms.types import LossInputs, LossOutputs, gather_chosen
from online_learning.config import LikelihoodConfig

SLIP = 0.01
"""How often those who know are wrong all the same."""
POWERS = (0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8)
"""How much surer or less sure than stated beliefs may turn out to have been."""


def likelihood(inputs: LossInputs, config: LikelihoodConfig) -> LossOutputs:
    """The loss of one minibatch and its metrics; `brier` is the mean squared error of P(up)."""
    refuse_text(inputs)
    up_B = (inputs.returns_B > 0).to(inputs.act_logprobs_B_A)
    beliefs_B_A = tempered(inputs.act_logprobs_B_A, inputs.legal_mask_B_A, _powers(inputs, config))
    p_right_B, p_wrong_B = _noise(inputs, config)
    p_up_B = p_wrong_B + (p_right_B - p_wrong_B) * gather_chosen(beliefs_B_A, inputs.chosen_B)
    log_likelihood_B = up_B * p_up_B.log() + (1 - up_B) * (1 - p_up_B).log()
    nll = -mean_over_rows(inputs.weights_B * inputs.returns_B.abs().clamp(max=1) * log_likelihood_B)
    regulariser, metrics = act_regulariser(inputs, config)
    return outputs(
        nll + regulariser,
        metrics
        | {
            "nll": nll,
            "up": mean_over_rows(up_B),
            "p_up": mean_over_rows(p_up_B),
            "brier": mean_over_rows((p_up_B - up_B) ** 2),
            "p_right": p_up_B.new_full((), config.p_right),
            "p_wrong": p_up_B.new_full((), config.p_wrong),
        },
    )


def _noise(inputs: LossInputs, config: LikelihoodConfig) -> tuple[Tensor, Tensor]:
    """p_right and p_wrong of each row."""
    certain_B = torch.zeros_like(inputs.chosen_B, dtype=torch.bool) if inputs.certain_B is None else inputs.certain_B
    right, wrong = (torch.full_like(inputs.returns_B, p) for p in (config.p_right, config.p_wrong))
    return right.masked_fill(certain_B, 1 - SLIP), wrong.masked_fill(certain_B, SLIP)


def _powers(inputs: LossInputs, config: LikelihoodConfig) -> Tensor:
    if inputs.temperatures_B is None:
        return torch.ones_like(inputs.returns_B)
    return inputs.temperatures_B / config.belief_temperature


def tempered(logprobs_B_A: Tensor, mask_B_A: Tensor, powers_B: Tensor) -> Tensor:
    """Probabilities [B, A] proportional to pi ^ power; 0 for padding."""
    scaled_B_A = (logprobs_B_A * powers_B[:, None]).masked_fill(~mask_B_A, -torch.inf)
    return scaled_B_A.softmax(-1)


def calibrated_noise(
    beliefs_B_A: Tensor, mask_B_A: Tensor, chosen_B: Tensor, up_B: Tensor, powers: Sequence[float] = POWERS
) -> tuple[float, float]:
    """`estimate_noise` without taking the beliefs' sureness for granted: the power of them, and the two numbers, under
    which the thumbs are likeliest. Beliefs that are too unsure would otherwise pass for people who seldom err.

    `beliefs_B_A`: log-probabilities, as they were *before* the row's thumb was heard.
    """
    found = []
    for power in powers:
        right_B = gather_chosen(tempered(beliefs_B_A, mask_B_A, torch.full_like(beliefs_B_A[:, 0], power)), chosen_B)
        p_right, p_wrong = estimate_noise(right_B, up_B, tolerance=1e-4, max_rounds=200)
        p_up_B = (p_wrong + (p_right - p_wrong) * right_B.double()).clamp(1e-6, 1 - 1e-6)
        found.append((float(torch.where(up_B > 0, p_up_B, 1 - p_up_B).log().sum()), p_right, p_wrong))
    _, p_right, p_wrong = max(found)
    # Thumbs that only say no, or the contrary of the truth, must not stop the learner: they come to say next to nothing.
    p_right = min(max(p_right, 2 * SLIP), 1 - 1e-4)
    return p_right, min(max(p_wrong, 1e-4), p_right - SLIP)


def estimate_noise(
    pi_chosen_B: Tensor,
    up_B: Tensor,
    *,
    guess: tuple[float, float] = (0.9, 0.1),
    guess_rows: float = 2.0,
    tolerance: float = 1e-7,
    max_rounds: int = 2000,
) -> tuple[float, float]:
    """(p_right, p_wrong) under which these thumbs are likeliest, by expectation maximisation.

    `pi_chosen_B`: the probability that the chosen act was right, from a policy that has not learned from these thumbs
    (else it explains its own noise away); `up_B`: whether each thumb was up. `guess` counts like `guess_rows` thumbs on
    right acts and as many on wrong ones: it keeps both answers inside 0..1, and is the answer where there are no rows.
    The log-likelihood is concave in the two numbers (P(up) is linear in them), so the maximum found is the only one.
    """
    assert guess_rows > 0, f"guess_rows: expected > 0, got {guess_rows}"
    right_B, up_B = pi_chosen_B.double(), up_B.double()
    p_right, p_wrong = guess
    for _ in range(max_rounds):
        belief_B = _posterior(right_B, up_B, p_right, p_wrong)
        found = (_share_up(belief_B, up_B, guess[0], guess_rows), _share_up(1 - belief_B, up_B, guess[1], guess_rows))
        moved = max(abs(found[0] - p_right), abs(found[1] - p_wrong))
        p_right, p_wrong = found
        if moved < tolerance:
            break
    return p_right, p_wrong


def _posterior(right_B: Tensor, up_B: Tensor, p_right: float, p_wrong: float) -> Tensor:
    """P(the act was right | the thumb), [B]."""
    if_right_B = right_B * (up_B * p_right + (1 - up_B) * (1 - p_right))
    if_wrong_B = (1 - right_B) * (up_B * p_wrong + (1 - up_B) * (1 - p_wrong))
    return if_right_B / (if_right_B + if_wrong_B)


def _share_up(belief_B: Tensor, up_B: Tensor, guess: float, guess_rows: float) -> float:
    """Share of ups among rows counted by belief, with the guess as `guess_rows` more."""
    return float(((belief_B * up_B).sum() + guess * guess_rows) / (belief_B.sum() + guess_rows))
