"""The distribution that is sampled, and drawing from it. Pure.

Shapes: R replies, V vocabulary, B blocks of X tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

BLOCK = 128
NOTHING_TO_DRAW = "no next word: expected logits of which a word can be drawn, got NaN, +inf or none that is allowed"
"""What is said of a reply whose draw has the log-probability NaN."""


def masked_logprobs(logits_R_V: Tensor, temperature_R_1: Tensor, allowed_R_V: Tensor) -> Tensor:
    """Log-probabilities [R, V] of the distribution that is sampled: after temperature and mask."""
    return (logits_R_V.float() / temperature_R_1).masked_fill(~allowed_R_V, -torch.inf).log_softmax(-1)


def draw(
    logits_R_V: Tensor, temperature_R_1: Tensor, allowed_R_V: Tensor, uniforms: Sequence[float]
) -> tuple[list[int], list[float]]:
    """Tokens [R] of the distribution of `masked_logprobs`, and their log-probabilities [R].

    Each is the first token whose cumulative probability is past its reply's own number from [0, 1). The sum goes by
    blocks, then within the block it falls into: adding up the vocabulary one by one costs four times as much.

    A row that is no distribution (NaN or +inf among its logits, nothing allowed) gets a token without meaning and the
    log-probability NaN; the others are drawn as ever.
    """
    scaled_R_V = (logits_R_V.float() / temperature_R_1).masked_fill_(~allowed_R_V, -torch.inf)
    top_R_1 = scaled_R_V.amax(-1, keepdim=True)
    weights_R_V = nn.functional.pad((scaled_R_V - top_R_1).exp_(), (0, -scaled_R_V.shape[1] % BLOCK))
    weights_R_B_X = weights_R_V.view(len(weights_R_V), -1, BLOCK)
    until_R_B = weights_R_B_X.sum(-1).double().cumsum(-1)
    uniform_R_1 = torch.tensor(uniforms, dtype=torch.float64).to(logits_R_V.device, non_blocking=True)[:, None]
    past_R_1 = uniform_R_1 * until_R_B[:, -1:]
    # The bounds are reached by NaN alone, which is past everything.
    block_R_1 = torch.searchsorted(until_R_B, past_R_1, right=True).clamp(max=until_R_B.shape[1] - 1)
    end_R_1 = until_R_B.gather(1, block_R_1)
    start_R_1 = nn.functional.pad(until_R_B, (1, 0)).gather(1, block_R_1)
    share_R_1 = ((past_R_1 - start_R_1) / (end_R_1 - start_R_1)).clamp(max=1 - 1e-12)
    within_R_X = (
        weights_R_B_X[torch.arange(len(block_R_1), device=block_R_1.device), block_R_1[:, 0]].double().cumsum(-1)
    )
    tokens_R_1 = block_R_1 * BLOCK + torch.searchsorted(within_R_X, share_R_1 * within_R_X[:, -1:], right=True)
    tokens_R_1 = tokens_R_1.clamp(max=scaled_R_V.shape[1] - 1)
    logprobs_R_1 = scaled_R_V.gather(1, tokens_R_1) - top_R_1 - until_R_B[:, -1:].log()
    # Both at once: a GPU is waited for here, and nowhere else in a step.
    tokens, logprobs = torch.cat((tokens_R_1.double(), logprobs_R_1), dim=1).T.tolist()
    return [int(token) for token in tokens], logprobs
