"""REINFORCE with a baseline (Williams 1992, Machine Learning 8; leave-one-out: arXiv 2402.14740). Pure.

    loss = -mean(w min(pi / mu, importance_cap) (R - b) log pi(chosen)) + value_coef / 2 mean(w (V - R)^2) + KL - entropy

It differs from `a2c` in what a return is compared with: not the advantage of the learner, but
- `rows`: the mean return of the minibatch's other rows. Leaving the row itself out keeps the gradient unbiased: a
  baseline may depend on anything but this row's own choice. A row alone is compared with 0.
- `value`: V(state), without gradient.

R > b raises the chosen act's probability and R < b lowers it; R = b gives no policy gradient. A row of weight 0 is in
nobody's baseline.
"""

from __future__ import annotations

from torch import Tensor

from online_learning.algorithms.a2c import policy_gradient
from online_learning.algorithms.types import LossInputs, LossOutputs
from online_learning.config import ReinforceConfig


def reinforce(inputs: LossInputs, config: ReinforceConfig) -> LossOutputs:
    """The loss of one minibatch; `advantages_B` are not read."""
    if config.baseline == "value":
        baseline_B = inputs.values_B.detach()
    else:
        baseline_B = mean_of_others(inputs.returns_B, inputs.weights_B)
    return policy_gradient(inputs, inputs.returns_B - baseline_B, config)


def mean_of_others(returns_B: Tensor, weights_B: Tensor) -> Tensor:
    """Weighted mean return of all other rows, [B]; 0 for a row that has none."""
    others_B = weights_B.sum() - weights_B
    total_B = (weights_B * returns_B).sum() - weights_B * returns_B
    alone_B = others_B <= 0
    return (total_B / others_B.masked_fill(alone_B, 1.0)).masked_fill(alone_B, 0.0)
