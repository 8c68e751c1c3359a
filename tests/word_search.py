"""Texts compared by the words they share: an encoder and a retrieval without a model, whose cosines one can count out."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import numpy as np

from bot.conversation import digest
from bot.domain import Domain
from bot.knowledge.index import Vectors
from bot.knowledge.retrieval import Found
from bot.policy.acts import Candidate

WIDTH = 4096
"""So wide that two words of a test hardly ever meet."""


class WordEmbedder:
    """A unit vector of word counts: two words of two shared make a cosine of 1, one of two .5."""

    name = "words"

    async def embed(self, texts: Sequence[str]) -> Vectors:
        vectors = np.full((len(texts), WIDTH), 1e-9, np.float32)
        for row, text in zip(vectors, texts, strict=True):
            for word in re.findall(r"\w+", text.lower()):
                row[zlib.crc32(word.encode()) % WIDTH] += 1
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


class WordSearch(WordEmbedder):
    """Retrieval over a domain's articles as they are when it is asked; `build` only moves the revision."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self.revision = "r0"
        self.article_means_N_D = np.empty((0, 0), np.float32)  # Counts of words have nothing in common to be taken out.

    async def build(self) -> None:
        self.revision = digest(*(text for article in self._domain.articles.values() for text in article.texts))

    async def find_all(self, queries: Sequence[str], num_articles: int) -> list[Found]:
        names = list(self._domain.articles)
        texts = [" ".join(self._domain.articles[name].texts) for name in names]
        cosines_Q_N = await self.embed(queries) @ (await self.embed(texts)).T
        return [
            Found(tuple(Candidate(names[i], float(row[i])) for i in np.argsort(-row)[:num_articles]), (), query)
            for query, row in zip(queries, cosines_Q_N, strict=True)
        ]
