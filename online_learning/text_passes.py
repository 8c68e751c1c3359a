"""Passes over generated text that teach: their precision, and what of them is kept for the gradient.

Shapes: B replies, T written tokens (padded).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from bot.conversation import Decision, Generated
from bot.policy.causal import CausalPart
from online_learning.config import LearnerConfig
from online_learning.rated_rows import padded


def generated_of(decision: Decision) -> Generated:
    """The text of a row that has one."""
    assert decision.generated is not None
    return decision.generated


def text_logprobs(
    writer: CausalPart, texts: Sequence[Generated], adapter: str, config: LearnerConfig
) -> tuple[Tensor, Tensor]:
    """Log-probabilities [B, T] of the written tokens under the adapter being trained, in fp32, and their mask.

    Under autocast matrix products are in bf16; weights, softmax and log-probabilities stay in fp32. With checkpointing a
    reply's activations are computed again when its gradient is: no more than one reply's are in memory at any time
    (arXiv 1604.06174, with replies as segments: within one, each layer appends to the prompt's keys and values, which
    must not happen twice).
    """
    with torch.autocast(writer.device.type, dtype=torch.bfloat16, enabled=config.text_dtype == "bf16"):
        if not config.text_checkpointing:
            return writer.token_logprobs(texts, [adapter] * len(texts))
        alone = [checkpoint(_of_one, writer, text, adapter, use_reentrant=False) for text in texts]
    width = max(map(len, alone))
    lengths_B_1 = torch.tensor([[len(logprobs_T)] for logprobs_T in alone]).to(writer.device, non_blocking=True)
    return padded(alone, width, fill=0.0), torch.arange(width, device=writer.device) < lengths_B_1


def _of_one(writer: CausalPart, text: Generated, adapter: str) -> Tensor:
    return writer.token_logprobs([text], [adapter])[0][0]
