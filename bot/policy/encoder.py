"""The encoder part: a small bidirectional LM that embeds states with an adapter and acts without.

Owns the base embedder with its head, the acts' texts as embeddings, and what is remembered of both.

Shapes: B rows, K distinct acts, E texts of an act, D embedding width.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor, nn

from bot.conversation import LegalAct
from bot.policy.acts import NEAREST_SHARE
from bot.policy.adapted import BASE, AdaptedModel, fingerprint, hush_loading, lora_config, pick_device


class Embedder(nn.Module):
    """A bidirectional LM, mean pooling, and a linear `head` that is the identity until an adapter changes it."""

    def __init__(self, body: nn.Module, width: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(width, width, bias=False)
        nn.init.eye_(self.head.weight)

    def forward(self, pooled_B_D: Tensor | None = None, **tokens: Tensor) -> Tensor:
        """States [B, D] of tokens (`input_ids`, `attention_mask`), or of what `pool` made of them.

        Unit vectors until the head learns. Not normalised after it: scores stay linear in what the head learned.
        """
        states_B_D: Tensor = self.head(self.pool(**tokens) if pooled_B_D is None else pooled_B_D)
        return states_B_D

    def pool(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Unit vectors [B, D]: mean over real tokens, before the head."""
        hidden_B_T_D = self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights_B_T_1 = attention_mask.unsqueeze(-1).to(hidden_B_T_D.dtype)
        return nn.functional.normalize((hidden_B_T_D * weights_B_T_1).sum(1), dim=-1)


@dataclass(frozen=True, slots=True)
class ActTable:
    """Distinct acts as their texts' embeddings. Shapes: K acts, E texts of the wordiest."""

    place: dict[str, int]
    """Text digest -> row of the table."""
    means_K_D: Tensor
    """Normalised mean of an act's texts; the last row is zero, for acts without texts."""
    texts_K_E_D: Tensor
    """The texts themselves, an act's first one repeated where it has fewer than E."""

    @staticmethod
    def of(texts: Mapping[str, Tensor], width: int, device: torch.device) -> ActTable:
        """From the embeddings [*, D] of each digest's texts."""
        most = max((len(group) for group in texts.values()), default=1)
        rows = [torch.cat([group, group[:1].expand(most - len(group), -1)]) for group in texts.values()]
        means = [nn.functional.normalize(group.mean(0), dim=-1) for group in texts.values()]
        nothing = torch.zeros(most, width, device=device)
        place = {digest: i for i, digest in enumerate(texts)}
        return ActTable(place, torch.stack([*means, nothing[0]]), torch.stack([*rows, nothing]))

    def similarity(self, states_B_D: Tensor) -> Tensor:
        """How well each state fits each act [B, K]: its mean text and its nearest one, by their shares."""
        cosines_B_K_E = torch.einsum("bd,ked->bke", states_B_D, self.texts_K_E_D)
        return (1 - NEAREST_SHARE) * (states_B_D @ self.means_K_D.T) + NEAREST_SHARE * cosines_B_K_E.amax(-1)


WHITENING_FLOOR = 0.1
"""Share of the largest variance from which on a direction is shrunk rather than scaled up."""


def whitening(texts_N_D: Tensor) -> Tensor:
    """A map [D, D] under which texts differ about as much in every direction, and their common part is gone.

    Embeddings of one domain share a mean and a few strong directions; learning a linear map on them is slow in all
    others. Directions of variance v are scaled by (1 + v / (floor * max v))^-1/2; then lengths are about 1 again.
    """
    mean_D = nn.functional.normalize(texts_N_D.mean(0), dim=-1)
    rest_N_D = texts_N_D - (texts_N_D @ mean_D)[:, None] * mean_D
    _, scales_K, directions_K_D = torch.linalg.svd(rest_N_D, full_matrices=False)
    shrunk_K = (1 + scales_K**2 / (WHITENING_FLOOR * scales_K[0] ** 2)).rsqrt()
    eye_D_D = torch.eye(len(mean_D), device=texts_N_D.device)
    apart_D_D = eye_D_D - torch.outer(mean_D, mean_D) + directions_K_D.T @ ((shrunk_K - 1)[:, None] * directions_K_D)
    whitening_D_D: Tensor = apart_D_D / (rest_N_D @ apart_D_D).norm(dim=-1).mean()
    return whitening_D_D


class EncoderPart:
    """A small bidirectional LM: embeds states with an adapter, acts without. Score: similarity over temperature.

    An adapter that changes only the head leaves what the LM makes of a text as it is: that is computed once for all
    versions and every pass of the learner, and kept.
    """

    MAX_TOKENS = 128
    REMEMBERED_TEXTS = 20_000
    """At 384 floats each: 31 MB."""
    REMEMBERED_ACTS = 20_000
    REMEMBERED_TABLES = 8

    def __init__(self, folder: Path, *, device: torch.device | None = None, reuse: bool = True) -> None:
        from transformers import AutoModel, AutoTokenizer

        hush_loading()
        self.device = device or pick_device()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        body = AutoModel.from_pretrained(folder, dtype=torch.float32)
        body.pooler = None  # Unused here; kept, an adapter of all linear layers would have weights without gradient.
        self.width: int = body.config.hidden_size
        self._base = Embedder(body, self.width).to(self.device)
        self.model = AdaptedModel(self._base)
        self.name = f"{Path(folder).name}:{fingerprint(Path(folder))}"
        self._acts: OrderedDict[str, Tensor] = OrderedDict()
        self._tables: OrderedDict[tuple[str, ...], ActTable] = OrderedDict()
        self._pooled: OrderedDict[tuple[int, ...], Tensor] = OrderedDict()
        self._reuse = reuse
        self.num_texts_asked = 0
        """Texts whose embedding was wanted, those of acts included."""
        self.num_texts_read = 0
        """Those of them that went through the LM: the others' embeddings were known."""
        self.num_tokens_read = 0
        """Tokens of the latter."""

    def lora(self, rank: int, alpha: int, *, body: bool, method: str = "lora") -> LoraConfig:
        """LoRA on the head, of full rank (a linear map of the embedding); with `body` on all linear layers besides.

        `method`: `lora`; `rslora`, whose scale is alpha / sqrt(rank) (arXiv 2312.03732); `dora`, which learns the length
        of each row of the weights apart from its direction (arXiv 2402.09353).
        """
        kind: dict[str, Any] = {"use_rslora": method == "rslora", "use_dora": method == "dora"}
        head_alpha = round(self.width**0.5) if method == "rslora" else self.width  # The head's scale stays (nearly) 1.
        if not body:
            return replace(lora_config(self.width), lora_alpha=head_alpha, target_modules=["head"], **kind)
        patterns: dict[str, Any] = {"rank_pattern": {"head": self.width}, "alpha_pattern": {"head": head_alpha}}
        return replace(lora_config(rank, alpha), **patterns, **kind)

    @property
    def words(self) -> tuple[str, ...]:
        """Whole words of the vocabulary, in its order, which is by frequency; empty where it does not tell words from
        pieces (WordPiece marks the pieces)."""
        vocabulary = self.tokenizer.get_vocab()
        if not any(token.startswith("##") for token in vocabulary):
            return ()
        words = (token for token in vocabulary if len(token) > 1 and token.isascii() and token.isalpha())
        return tuple(sorted(words, key=vocabulary.__getitem__))

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Token ids of one text, at most MAX_TOKENS; special tokens written in the text stay literal."""
        encoded = self.tokenizer(text, truncation=True, max_length=self.MAX_TOKENS, split_special_tokens=True)
        return tuple(encoded["input_ids"])

    def embed_ids(self, ids: Sequence[tuple[int, ...]], adapters: Sequence[str]) -> Tensor:
        """States [B, D]; `adapters` names one a row. PEFT mixes no DoRA into a batch: its rows go through apart."""
        if len(set(adapters)) == 1 or not any(self._is_apart(name) for name in set(adapters)):
            return self._embed_together(ids, adapters)
        groups = [[i for i, name in enumerate(adapters) if name == one] for one in dict.fromkeys(adapters)]
        found = [self._embed_together([ids[i] for i in rows], [adapters[i] for i in rows]) for rows in groups]
        place = torch.tensor([i for rows in groups for i in rows], device=self.device).argsort()
        return torch.cat(found)[place]

    def _is_apart(self, name: str) -> bool:
        return name != BASE and self.model.config(name).use_dora

    def _embed_together(self, ids: Sequence[tuple[int, ...]], adapters: Sequence[str]) -> Tensor:
        if not any(name != BASE and self._changes_body(name) for name in set(adapters)):
            states_B_D: Tensor = self.model(adapters, pooled_B_D=self.pool(ids))
        else:
            states_B_D = self.model(adapters, **self._padded(ids))
        return states_B_D

    def _changes_body(self, name: str) -> bool:
        return set(self.model.config(name).target_modules or ()) != {"head"}

    @torch.no_grad()
    def pool(self, ids: Sequence[tuple[int, ...]]) -> Tensor:
        """Unit vectors [B, D] of texts without any adapter: computed for texts that are new, remembered for others."""
        if not self._reuse:
            self._pooled.clear()
        missing = list(dict.fromkeys(row for row in ids if row not in self._pooled))
        self.num_texts_asked += len(ids)
        if missing:
            self._pooled.update(zip(missing, self._read(missing), strict=True))
        pooled_B_D = torch.stack([self._pooled[row] for row in ids])
        while len(self._pooled) > self.REMEMBERED_TEXTS:
            self._pooled.popitem(last=False)
        return pooled_B_D

    def _read(self, ids: Sequence[tuple[int, ...]]) -> Tensor:
        self.num_texts_read += len(ids)
        self.num_tokens_read += sum(map(len, ids))
        found_B_D: Tensor = self.model.untouched(self._base.pool, **self._padded(ids))
        return found_B_D

    def _padded(self, ids: Sequence[tuple[int, ...]]) -> dict[str, Tensor]:
        width = max(len(row) for row in ids)
        pad = self.tokenizer.pad_token_id or 0
        tokens_B_T = torch.tensor([[*row, *([pad] * (width - len(row)))] for row in ids])
        mask_B_T = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids])
        found = {"input_ids": tokens_B_T, "attention_mask": mask_B_T}
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in found.items()}

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str], batch_size: int = 64) -> Tensor:
        """Base embeddings [N, D] of texts (no adapter), in order; batches are sorted by length."""
        ids = [self.tokenize(text) for text in texts]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        out = torch.empty(len(ids), self.width, device=self.device)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            out[chosen] = self._read([ids[i] for i in chosen])
        return out

    def act_table(self, acts: Sequence[LegalAct]) -> ActTable:
        """The distinct acts, embedded without an adapter, each text once. Tables and texts are remembered."""
        worded = {act.text_digest: act.texts for act in acts if act.texts}
        known = tuple(sorted(worded))
        self.num_texts_asked += sum(map(len, worded.values()))
        if not self._reuse:
            self._acts.clear()
            self._tables.clear()
        if known not in self._tables:
            self._tables[known] = self._make_table(known, [worded[key] for key in known])
        self._tables.move_to_end(known)
        while len(self._tables) > self.REMEMBERED_TABLES:
            self._tables.popitem(last=False)
        return self._tables[known]

    def similarity(self, states_B_D: Tensor, acts: Sequence[LegalAct]) -> Tensor:
        """How well each state fits each of the acts [B, A]; 0 for an act without texts."""
        table = self.act_table(acts)
        places = [table.place[act.text_digest] if act.texts else len(table.place) for act in acts]
        return table.similarity(states_B_D)[:, places]

    def _make_table(self, digests: tuple[str, ...], texts: Sequence[tuple[str, ...]]) -> ActTable:
        for key in self._acts.keys() & set(digests):  # What this very table needs must not be what it evicts.
            self._acts.move_to_end(key)
        self._remember({key: group for key, group in zip(digests, texts, strict=True) if key not in self._acts})
        while len(self._acts) > max(self.REMEMBERED_ACTS, len(digests)):
            self._acts.popitem(last=False)
        return ActTable.of({key: self._acts[key] for key in digests}, self.width, self.device)

    def _remember(self, missing: dict[str, tuple[str, ...]]) -> None:
        vectors = self.embed_texts([text for texts in missing.values() for text in texts])
        sizes = [len(texts) for texts in missing.values()]
        self._acts.update(zip(missing, torch.split(vectors, sizes), strict=True))
