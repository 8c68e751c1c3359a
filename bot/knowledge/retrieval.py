"""Which articles and triggers fit a question: the base encoder's cosines to their texts, plus FTS5.

The measure is the one the fresh policy decides by (its mean text and its nearest, `NEAREST_SHARE`).

The best full-text match is one candidate more when the encoder did not find it: rare words (a product name, an error
code) are what embeddings miss. It does not take another's place: on bankdesk that cost 0.4 points of R@8.

Given the encoder's words, a question is read before it is looked up: slips of the finger are mended, and sentences that
are far less about anything here than the best one are left out. What was read is what the policy is shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bot.conversation import digest
from bot.domain import Domain
from bot.knowledge.cases import CaseMemory
from bot.knowledge.index import KnowledgeIndex, Vectors
from bot.knowledge.spelling import Speller
from bot.policy.acts import NEAREST_SHARE, Candidate, Precedent
from bot.policy.types import Embedder

ASIDE = 0.3
"""A sentence whose best cosine is this much below the best sentence's is beside the point: greetings, orders to the bot.
Chosen on bankdesk `warmstart`: .1 to .2 cost questions of several sentences up to a point, .3 costs none."""
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True, slots=True)
class Found:
    """Retrieval's word on one question, best first."""

    articles: tuple[Candidate, ...]
    triggers: tuple[Candidate, ...]
    query: str
    """The question as it was read."""
    precedent: Precedent | None = None
    """A trusted correction of the same question."""


class Retriever:
    """A domain made searchable. `build` first; rebuild when the domain changes.

    `words`: those the encoder knows, most frequent first; None: questions are taken as they are typed.
    """

    def __init__(
        self, domain: Domain, index: KnowledgeIndex, embedder: Embedder, words: Sequence[str] | None = None
    ) -> None:
        self.domain = domain
        self.cases = CaseMemory(domain, index, embedder)
        self._index = index
        self._embedder = embedder
        self._words = words
        self._speller: Speller | None = None
        self._articles: list[str] = []
        self._triggers: list[str] = []
        self._means_N_D: Vectors = np.empty((0, 0), np.float32)
        self._texts_M_D: Vectors = np.empty((0, 0), np.float32)
        self._starts_N = np.zeros(0, np.int64)
        self.article_means_N_D: Vectors = np.empty((0, 0), np.float32)
        """Each article's mean text: of unit vectors, so shorter than one where its texts differ."""
        self.revision = ""

    async def build(self) -> None:
        """Embed what is new and index the rest; again when articles have changed: questions meet the old index or the new."""
        articles = {name: article.texts for name, article in self.domain.articles.items()}
        triggers = {name: trigger.examples for name, trigger in self.domain.triggers.items() if trigger.examples}
        texts = [*articles.items(), *triggers.items()]  # An article may have a trigger's name: `handoff`, say.
        vectors = await self._index.vectors([text for _, group in texts for text in group], self._embedder)
        starts = np.cumsum([0, *(len(group) for _, group in texts)])
        means = np.stack([vectors[a:b].mean(0) for a, b in pairwise(starts)])
        self._means_N_D = means / np.linalg.norm(means, axis=1, keepdims=True)
        self.article_means_N_D = means[: len(articles)]
        self._texts_M_D, self._starts_N = vectors, starts[:-1]
        self._articles, self._triggers = list(articles), list(triggers)
        self._speller = None if self._words is None else Speller(_texts_of(self.domain), self._words)
        # Thanks and greetings are no reason to keep a sentence; asking for a person, or for an action, is.
        self._tasks = [i for i, (name, _) in enumerate(texts) if i < len(articles) or not name.startswith("utter_")]
        self._index.put_articles(self.domain.articles)
        self.revision = digest(self._embedder.name, *("\x1e".join((name, *group)) for name, group in texts))

    async def find(self, query: str, num_articles: int) -> Found:
        """The `num_articles` best articles, and every trigger, with their cosines."""
        return (await self.find_all([query], num_articles))[0]

    async def find_all(self, queries: Sequence[str], num_articles: int) -> list[Found]:
        """`find` for many questions, embedded together."""
        read = await self.read(queries)
        vectors_B_D = await self._embedder.embed(read)
        return [self._found(query, vector, num_articles) for query, vector in zip(read, vectors_B_D, strict=True)]

    async def read(self, queries: Sequence[str]) -> list[str]:
        """What is made of questions before they are looked up, and what the policy is shown of them."""
        return list(queries) if self._speller is None else await self._to_the_point(map(self._speller.mended, queries))

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors [N, D] of any texts, as they stand."""
        return await self._embedder.embed(texts)

    async def _to_the_point(self, queries: Iterable[str]) -> list[str]:
        """Questions of several sentences without those beside the point."""
        split = [_SENTENCE_END.split(query.strip()) for query in queries]
        vectors = await self._embedder.embed([sentence for parts in split if len(parts) > 1 for sentence in parts])
        best = iter((vectors @ self._means_N_D[self._tasks].T).max(1).tolist() if len(vectors) else ())
        return [parts[0] if len(parts) == 1 else _kept(parts, best) for parts in split]

    def _found(self, query: str, vector_D: Vectors, num_articles: int) -> Found:
        nearest_N = np.maximum.reduceat(self._texts_M_D @ vector_D, self._starts_N)
        scores_N = (1 - NEAREST_SHARE) * (self._means_N_D @ vector_D) + NEAREST_SHARE * nearest_N
        articles = _ranked(self._articles, scores_N[: len(self._articles)])
        triggers = _ranked(self._triggers, scores_N[len(self._articles) :])
        chosen = self._with_full_text(query, articles, num_articles)
        return Found(tuple(chosen), tuple(triggers), query, self.cases.precedent(vector_D))

    def _with_full_text(self, query: str, ranked: list[Candidate], count: int) -> list[Candidate]:
        best, rest = ranked[:count], {found.name: found for found in ranked[count:]}
        return best + [rest[name] for name in self._index.match(query, 1) if name in rest]


def _texts_of(domain: Domain) -> Iterator[str]:
    """Every text a domain's people wrote that says how its words are spelt."""
    for article in domain.articles.values():
        yield from (*article.texts, article.answer)
    for trigger in domain.triggers.values():
        yield from trigger.examples


def _kept(sentences: Sequence[str], relevance: Iterator[float]) -> str:
    """Takes each sentence's relevance from the stream; drops what is ASIDE."""
    found = [next(relevance) for _ in sentences]
    return " ".join(text for text, score in zip(sentences, found, strict=True) if score >= max(found) - ASIDE)


def _ranked(names: Sequence[str], scores_N: NDArray[np.floating[Any]]) -> list[Candidate]:
    return [Candidate(names[i], float(scores_N[i])) for i in np.argsort(-scores_N, kind="stable")]
