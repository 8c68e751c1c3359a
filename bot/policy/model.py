"""The policy's parts as tensors: one distribution over legal acts, and over words when the act is text.

Owns the models, their LoRA adapters (one PEFT adapter per version and part) and the single path from a row to
log-probabilities that serving and learning share. Knows nothing of requests, versions on disk or rewards.
Not thread-safe: whoever owns a part calls it from one thread.

Shapes: B rows, A legal acts (padded), D embedding width, T tokens.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from bot.conversation import LegalAct
from bot.errors import AdapterError, ModelError
from bot.policy.acts import NEAREST_SHARE
from bot.policy.cases import Cases

BASE = "__base__"
"""PEFT's name for rows that use no adapter in a mixed batch."""
NEVER = -1e9
"""Logit of padding: exp() is exactly 0 in float32, and sums stay finite."""


@dataclass(frozen=True, slots=True)
class ActRow:
    """What scoring a choice needs, taken from a request or from a stored Decision."""

    query_ids: tuple[int, ...]
    legal: tuple[LegalAct, ...]
    temperature: float
    prompt: str = ""


@dataclass(frozen=True, slots=True)
class Scored:
    """Log-probabilities of every row's legal acts, padded with NEVER, and the pooled states."""

    logprobs_B_A: Tensor
    mask_B_A: Tensor
    states_B_D: Tensor


def lora_config(rank: int = 16, alpha: int = 32, dropout: float = 0.0, invocation: Sequence[int] = ()) -> LoraConfig:
    """LoRA on all linear layers (arXiv 2106.09685); targets are resolved by PEFT per architecture.

    `invocation`: tokens from whose last occurrence on the adapter acts (activated LoRA, arXiv 2504.12397).
    """
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules="all-linear",
        alora_invocation_tokens=list(invocation) or None,
        task_type="CAUSAL_LM" if invocation else None,
    )


def pick_device() -> torch.device:
    """CUDA where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


HEAD_DOWN, HEAD_UP = ".head.lora_A.", ".head.lora_B."
"""In PEFT's names. The way in is chosen once (`whitening`), the way out learns: what is learned is linear in it."""


@dataclass(frozen=True, slots=True)
class Head:
    """head(x) = x + up @ down @ x."""

    down: nn.Parameter
    up: nn.Parameter


class AdaptedModel:
    """A frozen base model with named LoRA adapters."""

    def __init__(self, base: nn.Module) -> None:
        self._base = base.eval().requires_grad_(False)
        self._peft: PeftModel | None = None
        self._selected = ""
        self._lora_layers: list[LoraLayer] = []
        self._invocations: dict[str, tuple[int, ...]] = {}
        self._linear = {name for name, module in base.named_modules() if isinstance(module, nn.Linear)}

    @property
    def names(self) -> set[str]:
        """Adapters that are loaded."""
        return set(self._peft.peft_config) if self._peft is not None else set()

    def create(self, name: str, config: LoraConfig, *, trainable: bool = False) -> None:
        """Add an adapter that changes nothing yet (LoRA B is zero)."""
        self._invocations[name] = tuple(config.alora_invocation_tokens or ())
        # Where an activated adapter begins is the caller's doing: PEFT's own forward for it is slower than a plain one.
        config = replace(config, alora_invocation_tokens=None, task_type=None)
        if config.target_modules == "all-linear" and isinstance(self._base, Embedder):  # PEFT: only of its own kind
            config.target_modules = sorted(self._linear)
        with self._keeping_gradients():
            if self._peft is None:
                self._peft = get_peft_model(self._base, config, adapter_name=name)
            else:
                self._peft.add_adapter(name, config)
                self._peft.set_adapter(name)
        self._peft.eval()
        self._selected = ""
        self._lora_layers = [module for module in self._peft.modules() if isinstance(module, LoraLayer)]
        for key, parameter in self.parameters(name).items():
            parameter.requires_grad_(trainable and HEAD_DOWN not in key)

    def load(self, name: str, config: LoraConfig, tensors: dict[str, Tensor], *, trainable: bool = False) -> None:
        """Add an adapter with weights. Raises AdapterError when names or shapes do not fit this base model."""
        self.create(name, config, trainable=trainable)
        try:
            self.set_weights(name, tensors)
        except AdapterError:
            self.delete(name)
            raise

    def set_weights(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Overwrite an adapter's weights; every tensor must be there, with its shape, and none besides."""
        expected = {key: value.shape for key, value in self.weights(name).items()}
        got = {key: value.shape for key, value in tensors.items()}
        if expected != got:
            odd = min(set(expected.items()) ^ set(got.items()), key=str)
            raise AdapterError(f"adapter {name}: expected {len(expected)} tensors of this base model, odd one: {odd}")
        with torch.no_grad():
            set_peft_model_state_dict(self._need(), tensors, adapter_name=name)

    def weights(self, name: str) -> dict[str, Tensor]:
        """A copy of the adapter's weights under PEFT's own file names."""
        # "auto" would ask a hub whether the vocabulary grew; we never train embeddings.
        state = get_peft_model_state_dict(self._need(), adapter_name=name, save_embedding_layers=False)
        return {key: value.detach().clone() for key, value in state.items()}

    def parameters(self, name: str) -> dict[str, nn.Parameter]:
        """The live parameters of one adapter."""
        return {key: p for key, p in self._need().named_parameters() if f".{name}." in key or key.endswith(f".{name}")}

    def trainable(self, name: str) -> list[nn.Parameter]:
        """Those of an adapter's parameters that learn."""
        return [parameter for parameter in self.parameters(name).values() if parameter.requires_grad]

    def head(self, name: str) -> Head | None:
        """The two factors of what an adapter adds to an Embedder's head; None where it does not."""
        found = {part: p for key, p in self.parameters(name).items() for part in (HEAD_DOWN, HEAD_UP) if part in key}
        return Head(found[HEAD_DOWN], found[HEAD_UP]) if len(found) == 2 else None

    def config(self, name: str) -> LoraConfig:
        """The adapter's config with its targets resolved to this architecture's modules."""
        config = self._need().peft_config[name]
        assert isinstance(config, LoraConfig)
        invocation = list(self._invocations[name])
        return replace(config, alora_invocation_tokens=invocation, task_type="CAUSAL_LM") if invocation else config

    def invocation(self, name: str) -> tuple[int, ...]:
        """The tokens at whose last occurrence the adapter begins to act; empty: it acts on every token."""
        return self._invocations[name]

    def delete(self, name: str) -> None:
        """Free an adapter."""
        peft = self._need()
        others = [other for other in peft.peft_config if other != name]
        with self._keeping_gradients():
            if others:  # PEFT cannot run a mixed batch while its active adapter is a deleted one.
                peft.set_adapter(others[0])
            peft.delete_adapter(name)
        self._selected = ""

    def __call__(self, adapters: Sequence[str], **inputs: Any) -> Any:
        """Forward pass; `adapters` names one adapter per row (BASE: none)."""
        distinct = set(adapters)
        if self._peft is None or distinct == {BASE}:
            return self.untouched(self._base, **inputs)
        if len(distinct) == 1:
            self._select(adapters[0])
            return self._peft(**inputs)
        return self._peft(**inputs, adapter_names=list(adapters))

    def untouched(self, call: Callable[..., Any], **inputs: Any) -> Any:
        """Call the base model, or a method of it, without any adapter."""
        with self._without_adapters():
            return call(**inputs)

    def _select(self, name: str) -> None:
        if self._selected != name:
            with self._keeping_gradients():
                self._need().set_adapter(name)
            self._selected = name

    @contextmanager
    def _keeping_gradients(self) -> Iterator[None]:
        """PEFT turns requires_grad on and off as adapters come, go and take turns; which ones train is ours to say."""
        flags = {id(p): p.requires_grad for p in self._base.parameters()}
        yield
        for parameter in self._base.parameters():
            parameter.requires_grad_(flags.get(id(parameter), parameter.requires_grad))

    @contextmanager
    def _without_adapters(self) -> Iterator[None]:
        """Not PEFT's `disable_adapter`: that changes requires_grad, and fails once the active adapter was deleted."""
        for layer in self._lora_layers:
            layer._disable_adapters = True  # noqa: SLF001
        try:
            yield
        finally:
            for layer in self._lora_layers:
                layer._disable_adapters = False  # noqa: SLF001

    def _need(self) -> PeftModel:
        if self._peft is None:
            raise ModelError("expected an adapter, none is loaded")
        return self._peft


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

    def __init__(self, folder: Path, *, device: torch.device | None = None) -> None:
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
        missing = list(dict.fromkeys(row for row in ids if row not in self._pooled))
        if missing:
            found = self.model.untouched(self._base.pool, **self._padded(missing))
            self._pooled.update(zip(missing, found, strict=True))
        pooled_B_D = torch.stack([self._pooled[row] for row in ids])
        while len(self._pooled) > self.REMEMBERED_TEXTS:
            self._pooled.popitem(last=False)
        return pooled_B_D

    def _padded(self, ids: Sequence[tuple[int, ...]]) -> dict[str, Tensor]:
        width = max(len(row) for row in ids)
        pad = self.tokenizer.pad_token_id or 0
        tokens_B_T = torch.tensor([[*row, *([pad] * (width - len(row)))] for row in ids], device=self.device)
        mask_B_T = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids], device=self.device)
        return {"input_ids": tokens_B_T, "attention_mask": mask_B_T}

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str], batch_size: int = 64) -> Tensor:
        """Base embeddings [N, D] of texts (no adapter), in order; batches are sorted by length."""
        ids = [self.tokenize(text) for text in texts]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        out = torch.empty(len(ids), self.width, device=self.device)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            out[chosen] = self.model.untouched(self._base.pool, **self._padded([ids[i] for i in chosen]))
        return out

    def act_table(self, acts: Sequence[LegalAct]) -> ActTable:
        """The distinct acts, embedded without an adapter, each text once. Tables and texts are remembered."""
        worded = {act.text_digest: act.texts for act in acts if act.texts}
        known = tuple(sorted(worded))
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


@dataclass(frozen=True, slots=True)
class Prepared:
    """Rows as tensors: all of scoring that does not depend on weights."""

    rows: tuple[ActRow, ...]
    table: ActTable
    place_B_A: Tensor
    """int64: the table's row of each legal act."""
    prior_B_A: Tensor
    """NEVER where there is no act."""
    mask_B_A: Tensor
    """True for a legal act, False for padding."""
    temperature_B_1: Tensor

    def take(self, places: Sequence[int]) -> Prepared:
        """Some of the rows, in that order."""
        rows = tuple(self.rows[i] for i in places)
        taken = (t[places] for t in (self.place_B_A, self.prior_B_A, self.mask_B_A, self.temperature_B_1))
        return Prepared(rows, self.table, *taken)


class PolicyModel:
    """The parts that are on, summed as logits."""

    def __init__(self, encoder: EncoderPart, causal: Any = None, *, alpha: float = 0.0) -> None:
        self.encoder = encoder
        self.causal = causal
        self.alpha = alpha
        self.cases: dict[str, Cases] = {}
        """By adapter name, for those that have any."""

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts that score acts."""
        return ("encoder", "causal") if self.causal is not None else ("encoder",)

    def prepare(self, rows: Sequence[ActRow]) -> Prepared:
        """What scoring the rows needs besides weights; worth keeping where the same rows are scored many times."""
        device, width = self.encoder.device, max(len(row.legal) for row in rows)
        table = self.encoder.act_table([act for row in rows for act in row.legal])
        nowhere = len(table.place)
        place, prior = [], []
        for row in rows:
            padding = width - len(row.legal)
            place.append([table.place[act.text_digest] if act.texts else nowhere for act in row.legal])
            place[-1] += [nowhere] * padding
            prior.append([act.prior_logit for act in row.legal] + [NEVER] * padding)
        prior_B_A = torch.tensor(prior, device=device)
        return Prepared(
            tuple(rows),
            table,
            torch.tensor(place, device=device),
            prior_B_A,
            prior_B_A > NEVER,
            torch.tensor([[row.temperature] for row in rows], device=device),
        )

    def score(
        self, rows: Sequence[ActRow] | Prepared, adapters: Sequence[str], *, leave_out_own: bool = False
    ) -> Scored:
        """The whole act distribution of each row under its adapter. Differentiable in trainable adapters.

        `leave_out_own`: for rows that are among the adapter's cases and must not be their own evidence.
        """
        ready = rows if isinstance(rows, Prepared) else self.prepare(rows)
        states_B_D = self.encoder.embed_ids([row.query_ids for row in ready.rows], adapters)
        fit_B_A = ready.table.similarity(states_B_D).gather(1, ready.place_B_A)
        logits_B_A = fit_B_A / ready.temperature_B_1 + ready.prior_B_A
        if self.causal is not None:
            known = [name if name in self.causal.model.names else BASE for name in adapters]
            logits_B_A = logits_B_A + self.causal.act_logits(ready.rows, known, logits_B_A.shape[1], self.alpha)
        if any(name in self.cases for name in adapters):
            logits_B_A = logits_B_A + self._evidence(ready.rows, adapters, logits_B_A.shape[1], leave_out_own)
        logits_B_A = logits_B_A.masked_fill(~ready.mask_B_A, NEVER)
        return Scored(logits_B_A.log_softmax(-1), ready.mask_B_A, states_B_D)

    @torch.no_grad()
    def _evidence(self, rows: Sequence[ActRow], adapters: Sequence[str], width: int, leave_out_own: bool) -> Tensor:
        """Logits [B, width] that each row's adapter draws from its cases."""
        logits_B_A = torch.zeros(len(rows), width, device=self.encoder.device)
        for name in {name for name in adapters if name in self.cases}:
            places = [i for i, adapter in enumerate(adapters) if adapter == name]
            cases, group = self.cases[name], [rows[i] for i in places]
            states_B_D = self.encoder.pool([row.query_ids for row in group])
            legal = [[act.act for act in row.legal] for row in group]
            evidence_B_A = cases.evidence(states_B_D, legal, leave_out_own=leave_out_own)
            scale_B_1 = torch.tensor([[cases.weight / row.temperature] for row in group], device=self.encoder.device)
            logits_B_A[places, : evidence_B_A.shape[1]] = scale_B_1 * evidence_B_A
        return logits_B_A


class ValueHead(nn.Module):
    """V(state): one linear layer on the detached pooled state. Starts at 0."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, states_B_D: Tensor) -> Tensor:
        """Values [B]; no gradient reaches the encoder."""
        values_B: Tensor = self.linear(states_B_D.detach()).squeeze(-1)
        return values_B


def draw(logprobs_A: Tensor, seed: int) -> int:
    """Sample an index from one row's distribution with its own random stream (inverse CDF in float64)."""
    generator = torch.Generator().manual_seed(seed & 0x7FFFFFFFFFFFFFFF)
    uniform = torch.rand((), generator=generator, dtype=torch.float64)
    cumulative_A = logprobs_A.detach().cpu().double().exp().cumsum(-1)
    index = torch.searchsorted(cumulative_A, uniform * cumulative_A[-1])
    return min(int(index), len(logprobs_A) - 1)


def hush_loading() -> None:
    """No progress bars for weights that load in a blink: they fill logs with control characters."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def fingerprint(folder: Path) -> str:
    """Short hash of a model folder: config and the weights' safetensors header and size (not every byte)."""
    hasher = hashlib.sha256((folder / "config.json").read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as stream:
            hasher.update(stream.read(65536))
            stream.seek(-65536, 2) if path.stat().st_size > 65536 else stream.seek(0)
            hasher.update(stream.read())
        hasher.update(str(path.stat().st_size).encode())
    return hasher.hexdigest()[:16]
