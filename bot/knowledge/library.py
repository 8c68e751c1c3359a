"""The articles of a running server: the domain's, with the home's own over them, edited without a restart.

An own article is a file `HOME/articles/DOMAIN/ID.md`, in the format of the domain's; it adds an article or takes the place
of one with the same id. The installed package is never written to. A change is checked as at load, written aside and
renamed, swapped in at once, and indexed; rows keep their acts' texts, so they re-score whatever an article says today.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from bot.domain import Article, Domain, check_article, parse_article
from bot.domain_schema import mistake
from bot.errors import ConflictError, NotFound, StoreError
from bot.knowledge.grouping import topics
from bot.knowledge.index import Vectors
from bot.knowledge.retrieval import Found


class Search(Protocol):
    """Retrieval, as far as a library needs it (`bot.knowledge.retrieval.Retriever`)."""

    revision: str
    article_means_N_D: Vectors
    """Each article's mean text."""

    async def build(self) -> None:
        """Index the articles as they are now."""

    async def find_all(self, queries: Sequence[str], num_articles: int) -> list[Found]:
        """The nearest articles of many questions."""

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors [N, D] of any texts."""


class LiveArticles(Mapping[str, Article]):
    """Articles by id, exchanged as a whole: a reader sees all of a change or nothing of it.

    One that was removed can still be got by its id, though it is no longer listed: a reply that was chosen a moment ago
    needs its text, and an old transcript its title.
    """

    def __init__(self, articles: Mapping[str, Article]) -> None:
        self._listed = dict(articles)
        self._removed: dict[str, Article] = {}

    def __getitem__(self, article_id: str) -> Article:
        found = self._listed.get(article_id) or self._removed.get(article_id)
        if found is None:
            raise KeyError(article_id)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._listed)

    def __len__(self) -> int:
        return len(self._listed)

    def __contains__(self, article_id: object) -> bool:
        return article_id in self._listed

    def exchange(self, articles: Mapping[str, Article]) -> None:
        """These from now on."""
        gone = {name: article for name, article in self._listed.items() if name not in articles}
        self._removed |= gone
        self._listed = dict(articles)


@dataclass(frozen=True, slots=True)
class Shown:
    """An article as an editor needs it."""

    article: Article
    text: str
    """The whole file."""
    is_own: bool
    """Whether the home has a file of its own for it."""
    is_shipped: bool
    """Whether the domain has one: then dropping the own file brings that back."""

    @property
    def text_hash(self) -> str:
        """Which text it is: 16 hex digits."""
        return sha256(self.text.encode()).hexdigest()[:16]


class Library:
    """The articles of one server. Changes come one after another; readers never wait.

    `domain.articles` must be the `LiveArticles` that the whole server reads; `own` is the home's folder for this domain.
    """

    def __init__(self, domain: Domain, own: Path, search: Search) -> None:
        assert isinstance(domain.articles, LiveArticles)
        self._domain = domain
        self._live: LiveArticles = domain.articles
        self._own = own
        self._search = search
        self._changing = asyncio.Lock()

    @property
    def revision(self) -> str:
        """Of what is searched: it moves with every change of an article's title or questions."""
        return self._search.revision

    def all(self) -> list[Shown]:
        """By title."""
        return sorted(map(self.show, self._live), key=lambda shown: shown.article.title.casefold())

    def show(self, article_id: str) -> Shown:
        """Raises NotFound."""
        if article_id not in self._live:
            raise NotFound(f"article: expected a known id, got {article_id[:64]!r}")
        own, shipped = self._file(article_id), self._shipped(article_id)
        path = own if own.is_file() else shipped
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        return Shown(self._live[article_id], text, own.is_file(), shipped.is_file())

    def check(self, article_id: str, text: str) -> Article:
        """The article that the text would make. Raises DomainError, as loading the domain would."""
        if Path(article_id).name != article_id:
            raise mistake(self._own, 1, "a file name of a-z, 0-9 and _", article_id)
        return check_article(self._domain, self._file(article_id), text)

    async def put(self, article_id: str, text: str, *, is_new: bool = False, based_on: str = "") -> Article:
        """Write it, and answer with it from now on. `based_on`: the `text_hash` of what was edited, if that must still stand.

        Raises DomainError; ConflictError for a new one whose id is taken, or for changes to a text that is not there any more.
        """
        async with self._changing:
            if is_new and article_id in self._live:
                raise ConflictError(f"article: expected an id that is free, got {article_id!r}")
            if based_on and (article_id not in self._live or self.show(article_id).text_hash != based_on):
                raise ConflictError(
                    f"article {article_id!r}: somebody changed it meanwhile; open it again before you save"
                )
            article = self.check(article_id, text)
            await asyncio.to_thread(_write_atomic, self._file(article_id), text)
            await self._exchange(dict(self._live) | {article_id: article})
            return article

    async def drop(self, article_id: str) -> None:
        """Take the home's own file away: the domain's article is back, or there is none. Raises NotFound, DomainError."""
        async with self._changing:
            if not self.show(article_id).is_own:
                raise NotFound(f"article: expected one of this home's own, got {article_id!r}")
            left = {name: article for name, article in self._live.items() if name != article_id}
            if (shipped := self._shipped(article_id)).is_file():
                left[article_id], _ = parse_article(shipped, shipped.read_text(encoding="utf-8"))
            if not left:
                raise ConflictError("article: expected at least one to stay, got the last")
            await asyncio.to_thread(self._file(article_id).unlink)
            await self._exchange(left)

    async def groups(self, questions: Sequence[str]) -> list[list[int]]:
        """Indices of like questions, largest group first; within a group the most typical first."""
        return topics(await self._search.embed(questions), self._search.article_means_N_D) if questions else []

    async def nearest(self, questions: Sequence[str]) -> list[tuple[Article, float]]:
        """For each question the article that fits best, and how well (a cosine)."""
        found = await self._search.find_all(questions, 1) if questions else []
        return [(self._live[one.articles[0].name], one.articles[0].similarity) for one in found]

    async def _exchange(self, articles: Mapping[str, Article]) -> None:
        self._live.exchange(articles)
        await self._search.build()

    def _file(self, article_id: str) -> Path:
        return self._own / f"{article_id}.md"

    def _shipped(self, article_id: str) -> Path:
        return self._domain.folder / "articles" / f"{article_id}.md"


def with_live_articles(domain: Domain) -> Domain:
    """The domain with articles that can be exchanged."""
    return replace(domain, articles=LiveArticles(domain.articles))


def _write_atomic(path: Path, text: str) -> None:
    """Raises StoreError."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        aside.rename(path)
    except OSError as error:
        raise StoreError(f"{path}: expected to write an article, got {error.strerror}") from error
