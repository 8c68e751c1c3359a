"""The causal part's learner beside a plain implementation of the same objective: the same rows, epochs and minibatches.

Plain is what one writes first: LoRA on prompt and reply, the whole sequence in every pass, the full vocabulary's
log-probabilities at every position, old and reference log-probabilities by forward passes of their own, PPO on the reply's
tokens. It is spared the grounding mask, which the learner pays for.

FLOPs are 2 a weight and token forward and 2 more backward, since the base's own weights get no gradient; a LoRA weight
costs 2 and 4. Attention's products, norms and the softmax are left out, so shares of the peak are a little low.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from bot.conversation import BASE_VERSION, Generated
from bot.policy.adapted import BASE, lora_config
from bot.policy.causal import CausalPart
from bot.policy.model import PolicyModel
from online_learning.advantages import Credit
from online_learning.algorithms.ppo import clipped_surrogate
from online_learning.config import LearnerConfig
from online_learning.update import CURRENT, Learner

PLAIN = "plain"
"""Adapter name of the plain implementation."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences of a minibatch, padded on the right."""

    ids_B_L: Tensor
    seen_B_L: Tensor
    """1 for tokens, 0 for padding."""
    replies_B_L: Tensor
    """bool [B, L - 1]: where the next token is one that was written."""
    advantages_B_1: Tensor
    temperature_B_1_1: Tensor


class PlainLearner:
    """Full-sequence LoRA PPO over written tokens, on the writer's own base weights."""

    def __init__(self, writer: CausalPart, config: LearnerConfig) -> None:
        self.writer = writer
        self.config = config
        writer.model.create(PLAIN, lora_config(config.text_rank, 2 * config.text_rank), trainable=True)
        self.parameters = list(writer.model.parameters(PLAIN).values())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=config.text_learning_rate)

    def update(self, earned: Sequence[Credit], rng: np.random.Generator) -> None:
        """`text_epochs` passes over the rows, in minibatches of like length."""
        size = self.config.text_batch_size
        order = sorted(earned, key=lambda row: sum(map(len, _tokens(row))))
        batches = [self._batch(order[start : start + size]) for start in range(0, len(order), size)]
        with torch.no_grad():
            old = [self._logprobs(batch, PLAIN) for batch in batches]
            reference = [self._logprobs(batch, BASE) for batch in batches]
        for _ in range(self.config.text_epochs):
            for i in rng.permutation(len(batches)):
                self._step(batches[i], old[i], reference[i])

    def _batch(self, rows: Sequence[Credit]) -> Batch:
        tokens, device = [_tokens(row) for row in rows], self.writer.device
        width = max(len(prompt) + len(reply) for prompt, reply in tokens)
        ids_B_L = torch.zeros(len(rows), width, dtype=torch.long)
        seen_B_L, replies_B_L = torch.zeros_like(ids_B_L), torch.zeros(len(rows), width - 1, dtype=torch.bool)
        for i, (prompt, reply) in enumerate(tokens):
            end = len(prompt) + len(reply)
            ids_B_L[i, :end] = torch.tensor(prompt + reply)
            seen_B_L[i, :end] = 1
            replies_B_L[i, len(prompt) - 1 : end - 1] = True
        advantages_B_1 = torch.tensor([[row.advantage] for row in rows], dtype=torch.float32)
        temperature_B_1_1 = torch.tensor([[[written(row).temperature]] for row in rows])
        parts = (ids_B_L, seen_B_L, replies_B_L, advantages_B_1, temperature_B_1_1)
        return Batch(*(tensor.to(device) for tensor in parts))

    def _logprobs(self, batch: Batch, adapter: str) -> Tensor:
        """log p [B, L - 1] of every next token."""
        names = [adapter] * len(batch.ids_B_L)
        out = self.writer.model(names, input_ids=batch.ids_B_L, attention_mask=batch.seen_B_L, use_cache=False)
        logprobs_B_L_V = (out.logits.float() / batch.temperature_B_1_1).log_softmax(-1)
        chosen_B_L_1 = batch.ids_B_L[:, 1:].unsqueeze(-1)
        logprobs_B_L: Tensor = logprobs_B_L_V[:, :-1].gather(-1, chosen_B_L_1).squeeze(-1)
        return logprobs_B_L

    def _step(self, batch: Batch, old_B_L: Tensor, reference_B_L: Tensor) -> None:
        config, mask = self.config.text_loss, batch.replies_B_L
        logprobs_B_L = self._logprobs(batch, PLAIN)
        ratio_B_L = (logprobs_B_L - old_B_L).exp()
        surrogate_B_L = clipped_surrogate(
            ratio_B_L,
            batch.advantages_B_1.expand_as(ratio_B_L),
            config.text_clip_low,
            config.text_clip_high,
            config.dual_clip,
        )
        to_reference_B_L = 0.5 * (logprobs_B_L - reference_B_L) ** 2
        loss = (config.kl_champion_coef * to_reference_B_L - surrogate_B_L)[mask].sum() / mask.sum()
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.parameters, self.config.grad_clip)
        self.optimizer.step()


def written(row: Credit) -> Generated:
    """The row's reply."""
    assert row.decision.generated is not None
    return row.decision.generated


def _tokens(row: Credit) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return written(row).prompt_ids, written(row).token_ids


# --- the two, ready to be timed ---------------------------------------------------------------------------------------
def plain_update(writer: CausalPart, rows: Sequence[Credit], config: LearnerConfig) -> Callable[[], None]:
    """A call is one update by the plain implementation."""
    learner = PlainLearner(writer, config)
    return lambda: learner.update(rows, np.random.default_rng(0))


def our_update(
    model: PolicyModel, writer: CausalPart, rows: Sequence[Credit], config: LearnerConfig
) -> Callable[[], None]:
    """A call is one text update by the product's learner, which has read none of the prompts yet."""
    learner = Learner(model, replace(config, epochs=0), writer)
    before = learner.snapshot()

    def update() -> None:
        learner.restore(before)
        learner.update(rows, np.random.default_rng(0), lambda *_: None, BASE_VERSION)

    return update


def seconds(call: Callable[[], None]) -> float:
    """What one call takes."""
    began = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


# --- floating-point operations ----------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Weights:
    """How many numbers the matrices of a causal LM hold."""

    body: int
    head: int
    lora: int

    @classmethod
    def of(cls, writer: CausalPart) -> Weights:
        """Of a writer with a learner: LoRA's A [rank, in] and B [out, rank] tell the shape of each matrix they adapt."""
        lora = writer.model.weights(CURRENT)
        pairs = [(lora[name], lora[name.replace("lora_A", "lora_B")]) for name in lora if "lora_A" in name]
        body = sum(down.shape[1] * up.shape[0] for down, up in pairs)
        return cls(body, len(writer.tokenizer) * writer.width, sum(tensor.numel() for tensor in lora.values()))


def plain_flops(rows: Sequence[Credit], weights: Weights, config: LearnerConfig) -> float:
    """Of one update of the plain implementation, padding left out."""
    num_tokens = sum(len(prompt) + len(reply) for prompt, reply in map(_tokens, rows))
    forward = 2 * (weights.body + weights.head)
    both = 4 * (weights.body + weights.head) + 6 * weights.lora
    return float(num_tokens * (2 * forward + 2 * weights.lora + config.text_epochs * both))


def our_flops(rows: Sequence[Credit], weights: Weights, config: LearnerConfig, num_header: int) -> float:
    """Of one update of the learner: what prompts share is read once, and only written tokens meet the vocabulary."""
    prompts = {prompt[:-num_header] for prompt, _ in map(_tokens, rows)}
    num_read = len({prompt[:end] for prompt in prompts for end in range(1, len(prompt) + 1)})
    num_replies = sum(len(reply) for _, reply in map(_tokens, rows))
    num_adapted = num_replies + (num_header - 1) * len(rows)
    epoch = num_adapted * (4 * weights.body + 6 * weights.lora) + num_replies * 4 * weights.head
    return float(2 * weights.body * num_read + config.text_epochs * epoch)
