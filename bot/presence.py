"""Which operators look at which conversation, and who hears of changes. In memory: it ends with the server."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from bot.listener import Listener


class Presence:
    """Open operator pages. One event loop."""

    def __init__(self) -> None:
        self.pages: dict[Listener, str] = {}
        """Page -> account name."""
        self._may_listen: dict[Listener, Callable[[], bool]] = {}
        self._looks_at: dict[Listener, str] = {}
        self.seen: int | None = None
        """Revision of the inbox up to which open pages were told of changes; None while no page is open."""

    def enter(self, page: Listener, name: str, may_listen: Callable[[], bool]) -> None:
        """A page was opened. `may_listen`: whether whoever opened it is still of the staff; asked again and again."""
        self.pages[page] = name
        self._may_listen[page] = may_listen

    def leave(self, page: Listener) -> str:
        """It was closed; the conversation it looked at, or empty."""
        self.pages.pop(page, None)
        self._may_listen.pop(page, None)
        return self._looks_at.pop(page, "")

    def dismiss(self, close_code: int) -> None:
        """Close the pages of those who may listen no longer: nothing more is queued for them."""
        for page, may_listen in self._may_listen.items():
            if not may_listen():
                page.finish(close_code)

    def look(self, page: Listener, conversation_id: str) -> str:
        """It shows another conversation now (empty: none); the one before."""
        before = self._looks_at.pop(page, "")
        if conversation_id:
            self._looks_at[page] = conversation_id
        return before

    def viewers(self, conversation_id: str, *, but: str = "") -> list[str]:
        """Names of those who look at a conversation, each once."""
        names = {self.pages[page] for page, shown in self._looks_at.items() if shown == conversation_id}
        return sorted(names - {but})

    def by_conversation(self) -> dict[str, list[str]]:
        """Conversation -> viewers."""
        found: defaultdict[str, set[str]] = defaultdict(set)
        for page, shown in self._looks_at.items():
            found[shown].add(self.pages[page])
        return {conversation_id: sorted(names) for conversation_id, names in found.items()}
