"""The policy's parts added up: one distribution over legal acts.

Owns the single path from a row to log-probabilities that serving and learning share. Knows nothing of requests, versions
on disk or rewards. Not thread-safe: whoever owns a part calls it from one thread.

Shapes: B rows, A legal acts (padded), D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bot.conversation import LegalAct
from bot.policy.adapted import BASE
from bot.policy.cases import Cases
from bot.policy.encoder import ActTable, EncoderPart

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
        places_B = torch.tensor(places, dtype=torch.long).to(self.place_B_A.device, non_blocking=True)
        taken = (t[places_B] for t in (self.place_B_A, self.prior_B_A, self.mask_B_A, self.temperature_B_1))
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
