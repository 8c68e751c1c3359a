"""How far one update may carry choices: to where the gate still lets it pass. The rest of the way is taken back.

Adam's first steps are equally long whatever the gradient, so on a fresh install the early stop comes too late: when it first
sees a distance, a day of corrections has gone past the gate's bound. A refusal would take everything back, what the same update
learned of words included. Shortened until its distance is allowed (backtracking, as in TRPO's line search), the update
keeps its direction, and what is left of the way is for those that follow.

The gate measures for itself and judges all else that it judges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bot.conversation import Decision

BACKTRACK = 0.8
"""Each time it is still too far, the way is shortened to this share of itself."""
LEAST = 0.01
"""A way shorter than this is not gone at all."""


@dataclass(frozen=True, slots=True)
class Reach:
    """The rows by which the gate measures distance, and how far it lets the policy go, in nats."""

    recent: Sequence[Decision]
    champion: Sequence[Tensor]
    """Their log-probabilities [A] under the policy that the update begins with."""
    max_kl_champion: float
    max_kl_start: float
    """Infinite where held-out rows decide instead."""

    def holds(self, now: Sequence[Tensor], start: Sequence[Tensor]) -> bool:
        """Whether a policy with these log-probabilities of `recent` is near enough to both."""
        return mean_kl(now, self.champion) <= self.max_kl_champion and mean_kl(now, start) <= self.max_kl_start


@torch.no_grad()
def shorten(weights: Sequence[Tensor], origin: Sequence[Tensor], within: Callable[[], bool]) -> float:
    """Take `weights` back towards `origin`, in place, until they are `within`. Returns the share of the way that is kept: 1
    where nothing was to be taken back, 0 where nothing of it is within reach."""
    ends, share = [tensor.clone() for tensor in weights], 1.0
    while share > 0 and not within():
        share = share * BACKTRACK if share * BACKTRACK >= LEAST else 0.0
        for tensor, start, end in zip(weights, origin, ends, strict=True):
            tensor.copy_(torch.lerp(start, end, share))
    return share


def mean_kl(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """Mean KL(first || second) over rows of log-probabilities [A], nats; 0 without rows."""
    found = [float((p_A.exp() * (p_A - q_A)).sum()) for p_A, q_A in zip(first, second, strict=True)]
    return float(np.mean(found)) if found else 0.0
