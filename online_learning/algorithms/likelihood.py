"""The thumb itself, modelled: maximum likelihood of what people pressed. Ours. Pure.

Each state has one right act; pi(a | s) is read as the probability that it is a. A person presses up with probability
p_right when the act was right and p_wrong when it was not, so

    P(up | s, a) = p_wrong + (p_right - p_wrong) pi(a | s)
    loss         = -mean(w [up log P + (1 - up) log(1 - P)]) + KL - entropy

Learning with a known noise model, in the manner of forward correction (arXiv 1609.03683) with a label that is only
ever seen through one act's yes or no. What follows from it:
- There is no importance weight and no baseline: given state and act, the thumb's probability does not depend on why
  the act was chosen, so rows of any policy and any age count in full.
- Up pulls like (p_right - p_wrong) / P: hard where the act was thought wrong. Down pushes like
  (p_right - p_wrong) / (1 - P): hard where it was thought right, hardly where it was thought wrong anyway. With
  p_wrong > 0 and p_right < 1 both are bounded: one false thumb cannot outweigh many true ones.
- An update fits pi to be calibrated, and a wrong p_right or p_wrong bends that calibration: see `estimate_noise`.

R > threshold is an up, anything else a down; the advantage is not read.
"""

from __future__ import annotations

from torch import Tensor

from online_learning.algorithms.terms import act_regulariser, mean_over_rows, outputs, refuse_text
from online_learning.algorithms.types import LossInputs, LossOutputs, gather_chosen
from online_learning.config import LikelihoodConfig


def likelihood(inputs: LossInputs, config: LikelihoodConfig) -> LossOutputs:
    """The loss of one minibatch and its metrics; `brier` is the mean squared error of P(up)."""
    refuse_text(inputs)
    up_B = (inputs.returns_B > config.threshold).to(inputs.act_logprobs_B_A)
    chosen_B = gather_chosen(inputs.act_logprobs_B_A, inputs.chosen_B).exp()
    p_up_B = config.p_wrong + (config.p_right - config.p_wrong) * chosen_B
    log_likelihood_B = up_B * p_up_B.log() + (1 - up_B) * (1 - p_up_B).log()
    nll = -mean_over_rows(inputs.weights_B * log_likelihood_B)
    regulariser, metrics = act_regulariser(inputs, config)
    return outputs(
        nll + regulariser,
        metrics
        | {
            "nll": nll,
            "up": mean_over_rows(up_B),
            "p_up": mean_over_rows(p_up_B),
            "brier": mean_over_rows((p_up_B - up_B) ** 2),
        },
    )


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
