"""Which articles and triggers fit a question: the base encoder's cosine to each one's mean text vector, plus FTS5.

The best full-text match is one candidate more when the encoder did not find it: rare words (a product name, an error
code) are what embeddings miss. It does not take another's place: on bankdesk that cost 0.4 points of R@8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from bot.conversation import digest
from bot.domain import Domain
from bot.knowledge.index import KnowledgeIndex, Vectors
from bot.policy.acts import Candidate
from bot.policy.types import Embedder


@dataclass(frozen=True, slots=True)
class Found:
    """Retrieval's word on one question, best first."""

    articles: tuple[Candidate, ...]
    triggers: tuple[Candidate, ...]


class Retriever:
    """A domain made searchable. `build` first; rebuild when the domain changes."""

    def __init__(self, domain: Domain, index: KnowledgeIndex, embedder: Embedder) -> None:
        self.domain = domain
        self._index = index
        self._embedder = embedder
        self._articles: list[str] = []
        self._triggers: list[str] = []
        self._matrix_N_D: Vectors = np.empty((0, 0), np.float32)
        self.revision = ""

    async def build(self) -> None:
        """Embed what is new and index the rest."""
        articles = {name: article.texts for name, article in self.domain.articles.items()}
        triggers = {name: trigger.examples for name, trigger in self.domain.triggers.items() if trigger.examples}
        texts = [*articles.items(), *triggers.items()]  # An article may have a trigger's name: `handoff`, say.
        vectors = await self._index.vectors([text for _, group in texts for text in group], self._embedder)
        starts = np.cumsum([0, *(len(group) for _, group in texts)])
        means = np.stack([vectors[a:b].mean(0) for a, b in pairwise(starts)])
        self._matrix_N_D = means / np.linalg.norm(means, axis=1, keepdims=True)
        self._articles, self._triggers = list(articles), list(triggers)
        self._index.put_articles(self.domain.articles)
        self.revision = digest(self._embedder.name, *("\x1e".join((name, *group)) for name, group in texts))

    async def find(self, query: str, num_articles: int) -> Found:
        """The `num_articles` best articles, and every trigger, with their cosines."""
        return (await self.find_all([query], num_articles))[0]

    async def find_all(self, queries: Sequence[str], num_articles: int) -> list[Found]:
        """`find` for many questions, embedded together."""
        vectors_B_D = await self._embedder.embed(queries)
        return [self._found(query, vector, num_articles) for query, vector in zip(queries, vectors_B_D, strict=True)]

    def _found(self, query: str, vector_D: Vectors, num_articles: int) -> Found:
        scores_N = self._matrix_N_D @ vector_D
        articles = _ranked(self._articles, scores_N[: len(self._articles)])
        triggers = _ranked(self._triggers, scores_N[len(self._articles) :])
        chosen = self._with_full_text(query, articles, num_articles)
        return Found(tuple(chosen), tuple(triggers))

    def _with_full_text(self, query: str, ranked: list[Candidate], count: int) -> list[Candidate]:
        best, rest = ranked[:count], {found.name: found for found in ranked[count:]}
        return best + [rest[name] for name in self._index.match(query, 1) if name in rest]


def _ranked(names: Sequence[str], scores_N: Vectors) -> list[Candidate]:
    return [Candidate(names[i], float(scores_N[i])) for i in np.argsort(-scores_N, kind="stable")]
