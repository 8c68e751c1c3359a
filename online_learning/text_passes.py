"""Passes over generated text that teach: their precision, and what of them is kept for the gradient.

Shapes: B replies, T written tokens (padded).
"""

from __future__ import annotations

import ctypes
import sys
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

    Under autocast matrix products are in bf16; weights, softmax and log-probabilities stay in fp32. Where the rows do not
    fit into one pass, or with checkpointing, activations are computed again when their gradient is: no more than one
    pass's are in memory at any time (arXiv 1604.06174, with whole replies as segments: within one, each layer appends to
    the prompt's keys and values, which must not happen twice).
    """
    parts = passes(
        [writer.num_read(text, adapter) for text in texts], 1 if config.text_checkpointing else config.text_pass_tokens
    )
    rows: list[Tensor] = []
    with torch.autocast(writer.device.type, dtype=torch.bfloat16, enabled=config.text_dtype == "bf16"):
        if len(parts) == 1 and not config.text_checkpointing:
            return writer.token_logprobs(texts, [adapter] * len(texts))
        for part in parts:
            some = [texts[i] for i in part]
            if part is parts[-1] and not config.text_checkpointing:
                logprobs_P_T = _of_some(writer, some, adapter)  # Its gradient is the first to be computed.
            else:
                logprobs_P_T = checkpoint(_of_some, writer, some, adapter, use_reentrant=False)
            rows += [row_T[: len(text.token_ids)] for row_T, text in zip(logprobs_P_T, some, strict=True)]
    width = max(map(len, rows))
    lengths_B_1 = torch.tensor([[len(row_T)] for row_T in rows]).to(writer.device, non_blocking=True)
    return padded(rows, width, fill=0.0), torch.arange(width, device=writer.device) < lengths_B_1


def give_back() -> None:
    """Return to the system what was freed: glibc keeps it for later, which after an update of text is a gigabyte for as
    long as the process lives. Does nothing where the allocator is another one."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


@torch.no_grad()
def stored_or_scored(
    writer: CausalPart, decisions: Sequence[Decision], version: str, adapter: str, config: LearnerConfig
) -> list[Tensor]:
    """Log-probabilities [T] of each row's words under the adapter as it stands (`version`), as the passes that teach
    compute them: as stored where that is the same, else of a few of like length at a time."""
    found, unknown = dict[int, Tensor](), list[int]()
    texts = [generated_of(decision) for decision in decisions]
    for i, (decision, text) in enumerate(zip(decisions, texts, strict=True)):
        if decision.version == version and config.text_dtype == "fp32" and text.dtype == "float32":
            found[i] = torch.tensor(text.logprobs, device=writer.device)
        else:
            unknown.append(i)
    unknown.sort(key=lambda i: len(texts[i].token_ids))
    for start in range(0, len(unknown), config.text_batch_size):
        some = unknown[start : start + config.text_batch_size]
        logprobs_B_T, _ = text_logprobs(writer, [texts[i] for i in some], adapter, config)
        found |= {i: row_T[: len(texts[i].token_ids)] for i, row_T in zip(some, logprobs_B_T, strict=True)}
    return [found[i] for i in range(len(texts))]


def passes(lengths: Sequence[int], most_tokens: int) -> list[list[int]]:
    """Places of consecutive rows that go through the model at once, padded to the longest of them."""
    parts: list[list[int]] = []
    for place, length in enumerate(lengths):
        widest = max((lengths[i] for i in parts[-1]), default=0) if parts else 0
        if parts and max(widest, length) * (len(parts[-1]) + 1) <= most_tokens:
            parts[-1].append(place)
        else:
            parts.append([place])
    return parts


def _of_some(writer: CausalPart, texts: Sequence[Generated], adapter: str) -> Tensor:
    return writer.token_logprobs(texts, [adapter] * len(texts))[0]
