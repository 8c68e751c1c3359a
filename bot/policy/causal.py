"""The causal part: a language model that scores acts as text and writes replies.

Acts: `alpha * log p_base(act text) + (log p_adapter - log p_base)`; with alpha 0 a fresh adapter says nothing.
Replies: one token at a time from softmax(logits / temperature) under the grounding mask, so the stored
log-probabilities are those of the distribution that was sampled, and the learner recomputes the same ones.

An adapter may begin at the assistant's header (activated LoRA, arXiv 2504.12397): what comes before is read by the
base model, once for all versions and for every pass of the learner over the row.

Shapes: B rows, A legal acts, S act tokens, T reply tokens, V vocabulary.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from bot.conversation import Generated
from bot.errors import ModelError
from bot.policy.adapted import BASE, AdaptedModel, fingerprint, hush_loading, pick_device
from bot.policy.endings import last_place, num_held_back, read_on
from bot.policy.grounding import amounts
from bot.policy.model import ActRow
from bot.policy.prefixes import PrefixStats
from bot.policy.prompts import KeysValues, ReadPrompts, pack
from bot.policy.sampling import NOTHING_TO_DRAW, draw, masked_logprobs
from bot.policy.types import TextDelta, TextRequest
from bot.policy.vocabulary import Vocabulary

LABELS_KEPT = 4096
"""Texts of acts whose tokens are remembered."""


class CausalPart:
    """A causal LM with named LoRA adapters; one thread at a time."""

    def __init__(self, folder: Path, *, device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> None:
        from transformers import AutoModelForCausalLM

        hush_loading()
        self.device = device or pick_device()
        if self.device.type == "cuda":  # cuDNN's attention makes a plan for every new length, which takes it a second.
            torch.backends.cuda.enable_cudnn_sdp(False)
        self.vocabulary = Vocabulary(folder)
        self.tokenizer = self.vocabulary.tokenizer
        self.header_ids, self.stop_ids = self.vocabulary.header_ids, self.vocabulary.stop_ids
        base: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        self.model = AdaptedModel(base.to(self.device))
        self.width: int = base.config.hidden_size
        self.name = f"{Path(folder).name}:{fingerprint(Path(folder))}"
        self._read: dict[tuple[int, ...], KeysValues] = {}
        self._capacity_tokens = 0
        self._prompts: ReadPrompts | None = None
        self._label_ids = lru_cache(LABELS_KEPT)(self._spelled)
        self.num_act_tokens = 0
        """Tokens that went through the model to score acts, besides those of kept prompts."""

    def prompt_ids(self, prompt: str) -> tuple[int, ...]:
        """Tokens of a rendered prompt (`bot.render`)."""
        return self.vocabulary.prompt_ids(prompt)

    # --- acts -----------------------------------------------------------------------------------------------------
    def act_logits(self, rows: Sequence[ActRow], adapters: Sequence[str], width: int, alpha: float) -> Tensor:
        """This part's logits [B, width] of each row's legal acts; 0 for acts without texts."""
        out = [
            torch.nn.functional.pad(logits_A, (0, width - logits_A.shape[0]))
            for row, adapter in zip(rows, adapters, strict=True)
            for logits_A in [self._row_logits(row, adapter, alpha)]
        ]
        return torch.stack(out)

    def _row_logits(self, row: ActRow, adapter: str, alpha: float) -> Tensor:
        logits_A = torch.zeros(len(row.legal), device=self.device)
        worded = [i for i, act in enumerate(row.legal) if act.texts]
        if not row.prompt or not worded or (adapter == BASE and alpha == 0.0):  # No prompt: made without this part.
            return logits_A
        prompt_ids = self.prompt_ids(row.prompt)
        labels = [self._label_ids(row.legal[i].texts[-1]) for i in worded]
        with torch.no_grad():
            known = self._known(prompt_ids, BASE)
            base_A = self._loglik(prompt_ids, labels, BASE, known)
        if adapter == BASE:
            adapted_A = base_A
        else:
            is_shared = self._begin(prompt_ids, adapter) == _length(known) > 0
            known = known if is_shared else self._known(prompt_ids, adapter)
            adapted_A = self._loglik(prompt_ids, labels, adapter, known)
        return logits_A.index_copy(0, self._moved(torch.tensor(worded)), alpha * base_A + adapted_A - base_A)

    def _spelled(self, text: str) -> tuple[int, ...]:
        """An act as the LM would say it: its last text (an article's title, a response's wording)."""
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"][:24])

    def _loglik(
        self, prompt_ids: tuple[int, ...], labels: Sequence[tuple[int, ...]], adapter: str, known: KeysValues
    ) -> Tensor:
        """log p(label | prompt) [A]. What is not known of the prompt and all labels are one pass: each label sees the prompt
        and itself, so the prompt's keys and values are there once, whatever the number of acts."""
        begin = _length(known)
        packed = pack(len(prompt_ids) - begin, begin, [len(label) for label in labels])
        label_ids = [token for label in labels for token in label]
        self.num_act_tokens += len(prompt_ids) - begin + len(label_ids)
        ids_1_L = self._moved(torch.tensor([[*prompt_ids[begin:], *label_ids]]))
        out = self.model(
            [adapter],
            input_ids=ids_1_L,
            position_ids=self._moved(packed.positions_1_L),
            attention_mask=self._moved(packed.mask_1_1_L_K),
            past_key_values=self._past(known),
            use_cache=True,
            logits_to_keep=1 + len(label_ids),
        )
        logprobs_N_V = out.logits[0, self._moved(packed.before_N)].float().log_softmax(-1)
        label_N = self._moved(torch.tensor(label_ids))
        logprobs_N = logprobs_N_V.gather(-1, label_N.unsqueeze(-1)).squeeze(-1)
        owner_N = self._moved(packed.owner_N)
        return torch.zeros(len(labels), device=self.device).index_add(0, owner_N, logprobs_N)

    def _known(self, prompt_ids: tuple[int, ...], adapter: str) -> KeysValues:
        """What was read of a prompt before, or is read here without a gradient: up to where the adapter begins to act; in a
        server all but the last token, of which logits are wanted."""
        begin = self._begin(prompt_ids, adapter)
        if self._prompts is None:
            return self._read_prompt(prompt_ids[:begin]) if begin else ()
        return self._prompts.read(BASE if begin else adapter, prompt_ids[: begin or len(prompt_ids) - 1])

    def _past(self, known: KeysValues) -> Any:
        from transformers import DynamicCache

        return DynamicCache(known) if known else None

    # --- prompts --------------------------------------------------------------------------------------------------
    def keep_prompts(self, max_tokens: int) -> None:
        """From now on keep what is read of prompts for the choice among acts, by who read it. For a server: adapters must
        not change but by `load`, and nothing is trained."""
        self._prompts = ReadPrompts(self.model, max_tokens)

    @property
    def prompt_stats(self) -> PrefixStats:
        """Of the prompts that are kept; zeros where none are."""
        return self._prompts.stats if self._prompts is not None else PrefixStats()

    def counts(self) -> dict[str, float]:
        """Of choices, for metrics; any thread may ask."""
        kept = self.prompt_stats
        return {
            "causal_tokens_read": kept.num_read + self.num_act_tokens,
            "choice_prefix_tokens_read": kept.num_read,
            "choice_prefix_tokens_reused": kept.num_reused,
            "choice_prefix_blocks_evicted": kept.num_evicted,
        }

    def drop_prompts(self, adapter: str) -> None:
        """An adapter goes: free what it read."""
        if self._prompts is not None:
            self._prompts.drop(adapter)

    def after_prompt(self, prompt_ids: tuple[int, ...], more_ids: tuple[int, ...], adapter: str, *, keep: int) -> Any:
        """Forward pass over prompt and `more_ids`; logits of the last `keep` tokens, and the cache to go on with."""
        begin = self._begin(prompt_ids, adapter)
        ids_1_L = torch.tensor([[*prompt_ids[begin:], *more_ids]], device=self.device)
        cache = self._cache([prompt_ids[:begin]]) if begin else None
        return self.model([adapter], input_ids=ids_1_L, past_key_values=cache, use_cache=True, logits_to_keep=keep)

    def _begin(self, prompt_ids: tuple[int, ...], adapter: str) -> int:
        """Where the adapter begins to act: at the last occurrence of its invocation; 0: everywhere."""
        invocation = self.header_ids if adapter == BASE else self.model.invocation(adapter)
        return last_place(prompt_ids, invocation)

    @contextmanager
    def remembering(self, num_tokens: int) -> Iterator[None]:
        """`remember` for the length of the block."""
        self.remember(num_tokens)
        try:
            yield
        finally:
            self.remember(0)
            self.forget()

    def remember(self, num_tokens: int) -> None:
        """From now on keep what is read of prompts, up to `num_tokens` (SmolLM2-135M in fp32: 46 kB each): it holds for
        every activated adapter and every pass."""
        self._capacity_tokens = num_tokens

    def forget(self) -> None:
        """Let go of what was read."""
        self._read.clear()

    def _cache(self, prompts: Sequence[tuple[int, ...]]) -> Any:
        """Keys and values of prompts as the base model reads them, padded on the left. A new cache each time: passes
        append to theirs."""
        from transformers import DynamicCache

        read = {ids: self._read_prompt(ids) for ids in dict.fromkeys(prompts) if ids}
        if len(prompts) == 1:
            return DynamicCache(read[prompts[0]])
        longest = max(map(len, prompts))
        # An adapter may act from a row's first token on: then nothing of its prompt is read by the base model.
        read[()] = tuple((keys[:, :, :0], values[:, :, :0]) for keys, values in next(iter(read.values())))
        return DynamicCache(
            tuple(_stacked(layer, longest) for layer in zip(*(read[ids] for ids in prompts), strict=True))
        )

    @torch.no_grad()
    def _read_prompt(self, ids: tuple[int, ...]) -> KeysValues:
        """As remembered, else read on from where a remembered prompt parts from this one (they share the system text)."""
        from transformers import DynamicCache

        if ids in self._read:
            return self._read[ids]
        like = max(self._read, key=lambda known: _num_shared(known, ids), default=())
        shared = min(_num_shared(like, ids), len(ids) - 1)
        known = tuple((keys[:, :, :shared], values[:, :, :shared]) for keys, values in self._read.get(like, ()))
        tokens_1_P = self._moved(torch.tensor([ids[shared:]]))
        past = DynamicCache(known) if shared else None
        # In the weights' own precision whatever the pass around it has: rows that are only scored read from here too.
        with torch.autocast(self.device.type, enabled=False):
            out = self.model([BASE], input_ids=tokens_1_P, past_key_values=past, use_cache=True, logits_to_keep=1)
        read = tuple((layer.keys, layer.values) for layer in out.past_key_values.layers)
        # What came first stays: passes come round in cycles, the newest would be lost.
        if len(ids) + sum(map(len, self._read)) <= self._capacity_tokens:
            self._read[ids] = read
        return read

    # --- text -----------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def write(self, request: TextRequest, adapter: str) -> Iterator[TextDelta]:
        """Yield the reply piece by piece, at last a delta with the whole `Generated` record."""
        prompt_ids = self.vocabulary.reply_ids(request.prompt)
        known = amounts(" ".join(request.sources))
        uniforms = random.Random(request.seed)
        tokens: list[int] = []
        logprobs: list[float] = []
        text, num_sent, stop_reason = "", 0, ""
        temperature_1_1 = torch.tensor([[request.temperature]], device=self.device)
        out = self.after_prompt(prompt_ids, (), adapter, keep=1)
        while not stop_reason:
            allowed_1_V = torch.from_numpy(self.vocabulary.allowed(text, known)).to(self.device).unsqueeze(0)
            (token,), (logprob,) = draw(out.logits[0, -1:], temperature_1_1, allowed_1_V, [uniforms.random()])
            if math.isnan(logprob):
                raise ModelError(NOTHING_TO_DRAW)
            tokens.append(token)
            logprobs.append(logprob)
            text, stop_reason = read_on(self.vocabulary, text, tokens, request)
            end = len(text) - (0 if stop_reason else num_held_back(text, request.stop))
            if end > num_sent:
                yield TextDelta(text[num_sent:end])
                num_sent = end
            if not stop_reason:
                token_1_1 = torch.tensor([[token]], device=self.device)
                out = self.model([adapter], input_ids=token_1_1, past_key_values=out.past_key_values, logits_to_keep=1)
        generated = Generated(
            prompt_ids, tuple(tokens), tuple(logprobs), request.temperature, request.sources, text.strip(), stop_reason
        )
        yield TextDelta("", generated)

    def logprobs_of(self, row: Generated, logits_T_V: Tensor) -> Tensor:
        """Log-probabilities [T] of a row's tokens, given the logits before each."""
        temperature_T_1 = torch.full((len(row.token_ids), 1), row.temperature, device=logits_T_V.device)
        logprobs_T_V = masked_logprobs(logits_T_V, temperature_T_1, self._allowed(row).to(logits_T_V.device))
        tokens_T_1 = torch.tensor(row.token_ids, device=logits_T_V.device).unsqueeze(-1)
        return logprobs_T_V.gather(-1, tokens_T_1).squeeze(-1)

    def token_logprobs(self, rows: Sequence[Generated], adapters: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Log-probabilities and mask [B, T] of written tokens, under temperature and grounding. Differentiable.

        One pass over all rows, behind their prompts; logits are made of the written tokens only.
        """
        lengths = [len(row.token_ids) for row in rows]
        logits_N_V = torch.cat(self._reply_logits(rows, adapters))
        temperature_N_1 = torch.cat([torch.full((n, 1), row.temperature) for row, n in zip(rows, lengths, strict=True)])
        allowed_N_V = torch.cat([self._allowed(row) for row in rows])
        logprobs_N_V = masked_logprobs(logits_N_V, self._moved(temperature_N_1), allowed_N_V)
        tokens_N = self._moved(torch.tensor([token for row in rows for token in row.token_ids]))
        logprobs_N = logprobs_N_V.gather(-1, tokens_N.unsqueeze(-1)).squeeze(-1)
        mask_B_T = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(-1)
        return pad_sequence([*torch.split(logprobs_N, lengths)], batch_first=True), self._moved(mask_B_T)

    def num_read(self, row: Generated, adapter: str) -> int:
        """Tokens that a pass over the row reads: from where the adapter begins to act."""
        return len(row.prompt_ids) - self._begin(row.prompt_ids, adapter) + len(row.token_ids) - 1

    def _reply_logits(self, rows: Sequence[Generated], adapters: Sequence[str]) -> list[Tensor]:
        """Logits [T, V] of each row's written tokens."""
        begins = [self._begin(row.prompt_ids, adapter) for row, adapter in zip(rows, adapters, strict=True)]
        heads = [len(row.prompt_ids) - begin for row, begin in zip(rows, begins, strict=True)]
        ids = [(*row.prompt_ids[begin:], *row.token_ids[:-1]) for row, begin in zip(rows, begins, strict=True)]
        width, past = max(map(len, ids)), max(begins)
        ids_B_L = torch.tensor([[*row, *([0] * (width - len(row)))] for row in ids])
        steps_L = torch.arange(-past, width)
        lengths_B_1, begins_B_1 = torch.tensor([[len(row)] for row in ids]), torch.tensor(begins).unsqueeze(-1)
        out = self.model(
            adapters,
            input_ids=self._moved(ids_B_L),
            attention_mask=self._moved(((steps_L >= -begins_B_1) & (steps_L < lengths_B_1)).long()),
            position_ids=self._moved(begins_B_1 + torch.arange(width)),
            past_key_values=self._cache([row.prompt_ids[:n] for row, n in zip(rows, begins, strict=True)])
            if past
            else None,
            logits_to_keep=width - min(heads) + 1,
        )
        starts = [head - min(heads) for head in heads]
        return [x[i : i + len(row.token_ids)] for x, i, row in zip(out.logits, starts, rows, strict=True)]

    def _allowed(self, row: Generated) -> Tensor:
        """Grounding masks [T, V] of every step, from the tokens before it."""
        known = amounts(" ".join(row.sources))
        text, masks = "", []
        for step in range(len(row.token_ids)):
            masks.append(torch.from_numpy(self.vocabulary.allowed(text, known)))
            text = self.vocabulary.text_of(row.token_ids[: step + 1], text)
        return self._moved(torch.stack(masks))

    def _moved(self, tensor: Tensor) -> Tensor:
        """On the device, without waiting for what it still computes."""
        return tensor.to(self.device, non_blocking=True)


def _length(known: KeysValues) -> int:
    """Of how many tokens keys and values are."""
    return known[0][0].shape[2] if known else 0


def _num_shared(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the common beginning."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))


def _stacked(layer: Sequence[tuple[Tensor, Tensor]], longest: int) -> tuple[Tensor, Tensor]:
    """Keys and values of several prompts as one batch, padded on the left."""
    keys, values = (
        torch.cat([torch.nn.functional.pad(x, (0, 0, longest - x.shape[2], 0)) for x in tensors])
        for tensors in zip(*layer, strict=True)
    )
    return keys, values
