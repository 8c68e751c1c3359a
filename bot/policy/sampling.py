"""The distribution that is sampled, and drawing from it. Pure.

Shapes: R replies, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def masked_logprobs(logits_R_V: Tensor, temperature_R_1: Tensor, allowed_R_V: Tensor) -> Tensor:
    """Log-probabilities [R, V] of the distribution that is sampled: after temperature and mask."""
    return (logits_R_V.float() / temperature_R_1).masked_fill(~allowed_R_V, -torch.inf).log_softmax(-1)


def draw_tokens(logprobs_R_V: Tensor, uniforms: Sequence[float]) -> list[int]:
    """The first token whose cumulative probability is past each reply's own number from [0, 1)."""
    cumulative_R_V = logprobs_R_V.exp().cumsum(-1, dtype=torch.float64)
    past_R_1 = torch.tensor(uniforms, dtype=torch.float64, device=logprobs_R_V.device)[:, None] * cumulative_R_V[:, -1:]
    found: list[int] = torch.searchsorted(cumulative_R_V, past_R_1, right=True)[:, 0].tolist()
    return found
