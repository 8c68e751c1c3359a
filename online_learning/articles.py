"""The articles as they are on disk now: people edit them in the server's pages while the learner runs.

Both processes read the same files (`bot.knowledge.library` writes them, whole, by renaming), so nothing has to be sent.
"""

from __future__ import annotations

import logging

from bot.domain import Domain, load_domain
from bot.errors import DomainError
from bot.knowledge.library import LiveArticles, with_live_articles
from bot.settings import Settings

log = logging.getLogger(__name__)

Stamp = frozenset[tuple[str, int, int, int]]
"""(path, inode, change in ns, bytes) of each file: a renamed one has another inode, whatever the clock says."""


class ArticlesOnDisk:
    """The domain of the settings, with the home's own articles; `reread` brings it up to date. Raises DomainError."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._seen = self._stamp()
        self.domain: Domain = with_live_articles(load_domain(settings.domain, settings.own_articles))

    def reread(self) -> bool:
        """Whether the articles were edited since, and could be read: `domain` has them then."""
        now = self._stamp()
        if now == self._seen:
            return False
        self._seen = now
        try:
            fresh = load_domain(self._settings.domain, self._settings.own_articles)
        except DomainError as error:
            log.warning("articles were edited and cannot be read, the earlier ones stay: %s", error)
            return False
        assert isinstance(self.domain.articles, LiveArticles)
        self.domain.articles.exchange(fresh.articles)
        return True

    def _stamp(self) -> Stamp:
        found = ((str(path), path.stat()) for path in self._settings.own_articles.glob("*/*.md"))
        return frozenset((path, said.st_ino, said.st_mtime_ns, said.st_size) for path, said in found)
