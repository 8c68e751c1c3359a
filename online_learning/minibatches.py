"""An update's rows in minibatches, and the mean of what their steps report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from bot.policy.model import Scored


def batches(lengths: Sequence[int], size: int, rng: np.random.Generator) -> list[list[int]]:
    """Minibatches of rows of like length (padding would double the work), in random order; ties are shuffled."""
    shuffled: list[int] = rng.permutation(len(lengths)).tolist()
    order = sorted(shuffled, key=lambda i: lengths[i])
    found = [order[start : start + size] for start in range(0, len(order), size)]
    return [found[i] for i in rng.permutation(len(found))]


def mean_metrics(seen: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """Mean of each metric over the steps that report it; one host sync for all."""
    names = sorted(set().union(*seen))
    columns = [torch.stack([step[name].float() for step in seen if name in step]).mean() for name in names]
    return dict(zip(names, torch.stack(columns).tolist(), strict=True))


def unpadded(scored: Scored) -> list[Tensor]:
    """Log-probabilities [A] of each row's legal acts."""
    counts = scored.mask_B_A.sum(1).tolist()
    return [row[:count] for row, count in zip(scored.logprobs_B_A, counts, strict=True)]
