"""The policy without a server: what it would do on a list of questions. For the gate's conversation tests and for `eval`.

Uses the same renderer, retrieval, legal acts and scoring as serving; knows no session, so every question is the first
of its conversation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bot import render
from bot.conversation import LegalAct, State, Turn
from bot.domain import Domain
from bot.knowledge.index import KnowledgeIndex
from bot.knowledge.retrieval import Found, Retriever
from bot.policy.acts import CANCELLED, legal_acts
from bot.policy.encoder import EncoderPart
from bot.policy.model import ActRow, PolicyModel
from bot.settings import Settings
from online_learning.gate import TestResults

REMEMBERED_QUERIES = 20_000


@dataclass(frozen=True, slots=True)
class Outlook:
    """The act distribution for one question."""

    acts: tuple[str, ...]
    logprobs: tuple[float, ...]

    @property
    def mode(self) -> str:
        """The most probable act."""
        return self.acts[int(np.argmax(self.logprobs))]

    def probability(self, act: str) -> float:
        """Of one act; 0 when it is not legal."""
        return float(np.exp(self.logprobs[self.acts.index(act)])) if act in self.acts else 0.0


class _BaseEmbedder:
    """The encoder part as an Embedder, in this thread."""

    def __init__(self, encoder: EncoderPart) -> None:
        self._encoder = encoder
        self.name = encoder.name

    async def embed(self, texts: Sequence[str]) -> Any:
        """Unit vectors [N, D]."""
        return self._encoder.embed_texts(texts).cpu().numpy()


class OfflinePolicy:
    """A domain, its retrieval and a policy model."""

    def __init__(self, model: PolicyModel, domain: Domain, settings: Settings, cache: Path | None = None) -> None:
        self._model = model
        self._domain = domain
        self._settings = settings
        self._read: dict[str, tuple[int, ...]] = {}
        words = model.encoder.words if settings.policy.mend else None
        self._retriever = Retriever(domain, KnowledgeIndex(cache), _BaseEmbedder(model.encoder), words)
        asyncio.run(self._retriever.build())

    def look_again(self) -> None:
        """Index the domain's articles as they are now."""
        asyncio.run(self._retriever.build())
        self._read.clear()

    def rows(self, questions: Sequence[str]) -> list[ActRow]:
        """Questions with their legal acts, ready to be scored under any version."""
        states = [State("offline", (Turn("user", question),)) for question in questions]
        queries = [render.query_text(state) for state in states]
        found = asyncio.run(self._retriever.find_all(queries, self._settings.policy.num_candidates))
        return [self._row(state, one) for state, one in zip(states, found, strict=True)]

    def read(self, queries: Sequence[str]) -> list[tuple[int, ...]]:
        """Token ids of questions as a server reads them; remembered."""
        missing = list(dict.fromkeys(query for query in queries if query not in self._read))
        found = map(self._model.encoder.tokenize, asyncio.run(self._retriever.read(missing)) if missing else ())
        self._read.update(zip(missing, found, strict=True))
        ids = [self._read[query] for query in queries]
        while len(self._read) > REMEMBERED_QUERIES:
            self._read.pop(next(iter(self._read)))
        return ids

    def _row(self, state: State, found: Found) -> ActRow:
        policy = self._settings.policy
        legal = legal_acts(self._domain, found.articles, found.triggers, policy.temperature, None)
        prompt = render.choice_prompt(state, self._domain.persona) if self._model.causal is not None else ""
        return ActRow(self._model.encoder.tokenize(found.query), legal, policy.temperature, prompt)

    @torch.no_grad()
    def outlooks(self, rows: Sequence[ActRow], adapter: str, batch_size: int = 64) -> list[Outlook]:
        """What the adapter's policy makes of the rows."""
        found: dict[int, Outlook] = {}
        order = sorted(range(len(rows)), key=lambda i: len(rows[i].query_ids))
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            logprobs_B_A = self._model.score([rows[i] for i in batch], [adapter] * len(batch)).logprobs_B_A.double()
            found |= {i: _outlook(rows[i].legal, line) for i, line in zip(batch, logprobs_B_A.tolist(), strict=True)}
        return [found[i] for i in range(len(rows))]


def _outlook(legal: Sequence[LegalAct], logprobs: Sequence[float]) -> Outlook:
    return Outlook(tuple(act.act for act in legal), tuple(logprobs[: len(legal)]))


class ConversationTests:
    """The domain's tests as far as a policy decides them: the first message of each, and every later one that stands
    alone. Steps inside a form are not the policy's to get wrong (`bot.policy.acts.FORM_PRIOR`).

    `reread` says whether the domain's articles have changed since it was last asked."""

    def __init__(self, policy: OfflinePolicy, domain: Domain, reread: Callable[[], bool] = bool) -> None:
        self._policy = policy
        self._reread = reread
        steps = [(test.name, step) for test in domain.tests for step in test.steps]
        self._steps = [(name, step) for name, step in steps if not _inside_form(step.act)]
        self._rows = self._asked()
        self.must_pass = frozenset(test.name for test in domain.tests if test.must_pass)
        self._names = frozenset(name for name, _ in self._steps)

    def _asked(self) -> list[ActRow]:
        return self._policy.rows([step.user for _, step in self._steps])

    def refresh(self) -> None:
        """Take the articles as they are now: between updates only, so that champion and candidate meet the same ones."""
        if self._reread():
            self._policy.look_again()
            self._rows = self._asked()

    def results(self, adapter: str) -> TestResults:
        """Which tests an adapter's mode passes."""
        outlooks = self._policy.outlooks(self._rows, adapter)
        failed = {
            name
            for (name, step), outlook in zip(self._steps, outlooks, strict=True)
            if not _meets(outlook.mode, step.act, step.one_of)
        }
        return TestResults(self._names - failed, frozenset(failed))


def _inside_form(act: str) -> bool:
    return act.startswith("ask:") or act == f"respond:{CANCELLED}"


def _meets(act: str, exact: str, one_of: Sequence[str]) -> bool:
    wanted = [name for name in (exact, *one_of) if name]
    return not wanted or act.partition("#")[0] in {name.partition("#")[0] for name in wanted} or act in wanted
