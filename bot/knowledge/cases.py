"""Trusted corrections in force, as precedents for the same question asked again.

A case speaks only where a question is nearly its own (FROM), and in full where it is the same (FULL); between, its weight
grows linearly. One case speaks: the nearest, of equals the newest. Its weight is added to the act's prior (`bot.policy.acts`),
so the distribution that is sampled from, and kept, already holds it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bot.conversation import Act, ActKind
from bot.domain import Domain
from bot.knowledge.index import KnowledgeIndex
from bot.policy.acts import Precedent
from bot.policy.types import Embedder

FROM, FULL = 0.83, 0.93
"""Cosines of the base encoder. Of 2,000 questions of bankdesk `online` (MiniLM), the nearest other one is of the same intent
in 95.6 % where its cosine is at least .85, in 97.9 % from .88; retrieval alone is right in three of four."""
WEIGHT = 1.0
"""As a cosine: what separates the best act from the worst one is less."""


class CaseRow(Protocol):
    """A case, as the store keeps it."""

    @property
    def id(self) -> str:
        """Its id."""

    @property
    def question(self) -> str:
        """As it was read."""

    @property
    def act(self) -> str:
        """The right one."""

    @property
    def text(self) -> str:
        """The right words; empty: the act's own."""


class CaseMemory:
    """All cases in force, with their questions' embeddings. One event loop."""

    def __init__(self, domain: Domain, index: KnowledgeIndex, embedder: Embedder) -> None:
        self._domain = domain
        self._index = index
        self._embedder = embedder
        self._rows: list[CaseRow] = []
        self._vectors_N_D: NDArray[np.float32] = np.empty((0, 0), np.float32)

    def __len__(self) -> int:
        return len(self._rows)

    async def load(self, rows: Iterable[CaseRow]) -> None:
        """Take these, oldest first, in place of all before. One whose act this domain no longer has is left out."""
        kept = [row for row in rows if row.text or self._knows(Act.parse(row.act))]
        vectors_N_D = await self._index.vectors([row.question for row in kept], self._embedder)
        self._rows, self._vectors_N_D = kept, vectors_N_D

    def precedent(self, vector_D: NDArray[np.floating[Any]]) -> Precedent | None:
        """What the nearest case says of a question; None when none is near."""
        if not self._rows:
            return None
        cosines_N = self._vectors_N_D @ vector_D
        best = len(cosines_N) - 1 - int(np.argmax(cosines_N[::-1]))  # Of equals the newest, which stands last.
        similarity = float(cosines_N[best])
        weight = WEIGHT * min(max((similarity - FROM) / (FULL - FROM), 0.0), 1.0)
        if weight == 0.0:
            return None
        row = self._rows[best]
        if row.text:
            weight += (
                similarity  # Their act has no texts to be like: how near the question is stands in the prior, too.
            )
        return Precedent(row.id, row.act, self._texts(row), similarity, weight, row.text)

    def _knows(self, act: Act) -> bool:
        domain = self._domain
        by_kind = {
            ActKind.ANSWER: act.target in domain.articles,
            ActKind.RESPOND: act.variant < len(domain.responses.get(act.target, ())),
            ActKind.RUN: act.target in domain.actions,
            ActKind.HANDOFF: True,
        }
        return by_kind.get(act.kind, False)

    def _texts(self, row: CaseRow) -> tuple[str, ...]:
        """The domain's own, never a person's: texts stay in the choices of others when their conversation is erased."""
        if row.text:
            return ()
        act = Act.parse(row.act)
        if act.kind is ActKind.ANSWER:
            article = self._domain.articles.get(act.target)  # It may have been taken away since the cases were loaded.
            return article.texts if article else ()
        trigger = self._domain.triggers.get(act.target or act.kind.value)
        return trigger.examples if trigger else ()
