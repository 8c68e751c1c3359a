"""What a causal model read of prompts, kept between turns and chats for the choice among acts.

Owns keys and values of transformers' caches in blocks (`prefixes`). Whoever asks names the reader: the base model, or an
adapter by its name and how many loads ago that name was filled, so that weights under an old name are never mistaken for
the present ones. Bounded, in memory of the model's device: a token is as large as in the writer's cache, at the model's own
precision.

Shapes: keys and values of each layer [1, heads, tokens, width].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bot.policy.adapted import AdaptedModel
from bot.policy.prefixes import BLOCK_TOKENS, PrefixCache, PrefixStats

KeysValues = tuple[tuple[Tensor, Tensor], ...]


class ReadPrompts:
    """Prompts read by one model; one thread."""

    def __init__(self, model: AdaptedModel, max_tokens: int) -> None:
        self._model = model
        self._blocks: PrefixCache[KeysValues] = PrefixCache(max_tokens // BLOCK_TOKENS)

    @property
    def stats(self) -> PrefixStats:
        """Since the start."""
        return self._blocks.stats

    @torch.no_grad()
    def read(self, adapter: str, ids: tuple[int, ...]) -> KeysValues:
        """Keys and values of the tokens as an adapter (BASE: none) reads them; only what is not held is computed."""
        reader = f"{adapter}#{self._model.num_loads(adapter)}"
        blocks = self._blocks.find(reader, ids)
        known = _joined(blocks)
        start = BLOCK_TOKENS * len(blocks)
        self._blocks.count(num_reused=start, num_read=len(ids) - start)
        if start == len(ids):
            return known
        read = self._go_on(adapter, ids[start:], known)
        self._blocks.keep(reader, ids, lambda start, end: _part(read, start, end))
        return read

    def drop(self, adapter: str) -> None:
        """Free what an adapter read."""
        self._blocks.drop(f"{adapter}#{self._model.num_loads(adapter)}")

    def _go_on(self, adapter: str, ids: Sequence[int], known: KeysValues) -> KeysValues:
        from transformers import DynamicCache

        out: Any = self._model(
            [adapter],
            input_ids=torch.tensor([ids], device=self._model.device),
            past_key_values=DynamicCache(known) if known else None,
            use_cache=True,
            logits_to_keep=1,
        )
        return tuple((layer.keys, layer.values) for layer in out.past_key_values.layers)


@dataclass(frozen=True, slots=True)
class Packed:
    """The rest of a prompt (R tokens, behind `known` ones) and labels behind it side by side, N tokens in all: L = R + N."""

    positions_1_L: Tensor
    mask_1_1_L_K: Tensor
    """Added to attention scores; K: the known tokens, then L."""
    before_N: Tensor
    """Of the logits of the last 1 + N tokens, those before each label's token."""
    owner_N: Tensor
    """The label of each token."""


def pack(num_rest: int, num_known: int, lengths: Sequence[int]) -> Packed:
    """Each label goes on from the prompt as if it were alone (tree attention with one level of branches)."""
    owner_N = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    step_N = torch.cat([torch.arange(length) for length in lengths])
    owner_L = torch.cat([torch.full((num_rest,), -1), owner_N])
    positions_L = num_known + torch.cat([torch.arange(num_rest), num_rest + step_N])
    is_shared_L = owner_L == -1
    sees_L_L = (is_shared_L | (owner_L[:, None] == owner_L)) & (positions_L[:, None] >= positions_L)
    sees_L_K = torch.cat([torch.ones(len(owner_L), num_known, dtype=torch.bool), sees_L_L], dim=1)
    mask_L_K = torch.zeros(sees_L_K.shape).masked_fill(~sees_L_K, torch.finfo(torch.float32).min)
    before_N = torch.where(step_N == 0, 0, torch.arange(len(owner_N)))
    return Packed(positions_L[None], mask_L_K[None, None], before_N, owner_N)


def _joined(blocks: Sequence[KeysValues]) -> KeysValues:
    """Blocks behind one another; empty without any."""
    layers = zip(*blocks, strict=True)
    return tuple(
        (torch.cat([keys for keys, _ in layer], dim=2), torch.cat([values for _, values in layer], dim=2))
        for layer in layers
    )


def _part(read: KeysValues, start: int, end: int) -> KeysValues:
    """A copy: a view would hold all of the prompt in memory."""
    return tuple((keys[:, :, start:end].clone(), values[:, :, start:end].clone()) for keys, values in read)
