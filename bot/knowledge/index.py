"""Embeddings of a domain's texts and a full-text index over its articles, in one SQLite file that can be rebuilt.

A text is embedded once per encoder: its vector is kept under (text, encoder), also when the text is gone. Changing an
article embeds only what changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlite_utils
from sqlite_utils.utils import sqlite3  # type: ignore[attr-defined]  # whichever SQLite it has chosen

from bot.conversation import digest
from bot.domain import Article
from bot.errors import StoreError
from bot.policy.types import Embedder

Vectors = npt.NDArray[np.float32]
_WORD = re.compile(r"[^\W_]{2,}")


class KnowledgeIndex:
    """The cache of vectors and the FTS5 table; `path` None keeps it in memory."""

    def __init__(self, path: Path | None = None) -> None:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite_utils.Database(path or ":memory:", execute_plugins=False)
        with self._writing():
            self._db.execute("create table if not exists vectors (key text primary key, vector blob not null) strict")
            self._db.execute(
                "create virtual table if not exists articles using fts5(id unindexed, body, tokenize=porter)"
            )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction. Raises StoreError, on a full disk for example."""
        try:
            with self._db.conn:
                yield
        except sqlite3.Error as error:
            raise StoreError(f"knowledge index: {error}") from error

    async def vectors(self, texts: Sequence[str], embedder: Embedder) -> Vectors:
        """Unit vectors [N, D], embedding only texts never seen with this encoder."""
        keys = [digest(embedder.name, text) for text in texts]
        known = self._read(keys)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        if missing:
            fresh = np.asarray(await embedder.embed(list(missing.values())), dtype=np.float32)
            known |= dict(zip(missing, fresh, strict=True))
            self._write(zip(missing, fresh, strict=True))
        return np.stack([known[key] for key in keys]) if keys else np.empty((0, 0), np.float32)

    def put_articles(self, articles: Mapping[str, Article]) -> None:
        """Replace the full-text index."""
        rows = [(article.id, " ".join((*article.texts, article.answer))) for article in articles.values()]
        with self._writing():
            self._db.execute("delete from articles")
            self._db.conn.executemany("insert into articles (id, body) values (?, ?)", rows)

    def match(self, query: str, limit: int) -> list[str]:
        """Article ids by bm25; words only, so that no FTS5 operator in a user's text is one."""
        words = _WORD.findall(query.lower())[:64]
        if not words:
            return []
        terms = " OR ".join(f'"{word}"' for word in words)
        sql = "select id from articles where articles match ? order by bm25(articles) limit ?"
        return [row[0] for row in self._db.execute(sql, [terms, limit])]

    def _read(self, keys: Sequence[str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for start in range(0, len(keys), 500):
            some = keys[start : start + 500]
            marks = ",".join("?" * len(some))
            rows = self._db.execute(f"select key, vector from vectors where key in ({marks})", some)  # noqa: S608
            found |= {key: np.frombuffer(blob, dtype=np.float32) for key, blob in rows}
        return found

    def _write(self, rows: Iterable[tuple[str, Any]]) -> None:
        blobs = [(key, np.ascontiguousarray(vector).tobytes()) for key, vector in rows]
        with self._writing():
            self._db.conn.executemany("insert or replace into vectors (key, vector) values (?, ?)", blobs)

    def close(self) -> None:
        """Close the file."""
        self._db.close()
