"""A real session over the real store, the bank's domain and its real actions; policy, retrieval and clock are scripted."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bot.actions.executor import Actions
from bot.conversation import Conversation, Decision, Delta, Message, Signal
from bot.domain import Domain, load_domain
from bot.feedback.store import Store
from bot.identity import IdSource
from bot.policy.acts import Candidate, Precedent
from bot.policy.asking import Asker
from bot.policy.scripted import ScriptedPolicy
from bot.session import Session
from bot.settings import Settings, load_settings
from tests.builders import make_conversation
from tests.service_rig import Clock

HOLDOUT_KEY = b"h" * 32


@dataclass(slots=True)
class Found:
    """What scripted retrieval says of every question."""

    articles: Sequence[Candidate] = (Candidate("card_arrival", 0.8), Candidate("lost_or_stolen_card", 0.6))
    triggers: Sequence[Candidate] = ()
    query: str = ""
    precedent: Precedent | None = None


@dataclass(slots=True)
class ScriptedKnowledge:
    """Retrieval by script."""

    found: Found = field(default_factory=Found)
    revision: str = "k7"
    queries: list[str] = field(default_factory=list)

    async def find(self, query: str, num_articles: int) -> Found:
        self.queries.append(query)
        return replace(self.found, query=query)


class Rig:
    """One conversation `c1` of person `p1`."""

    def __init__(self, home: Path, store: Store, domain: Domain, settings: Settings) -> None:
        self.home, self.store, self.domain, self.settings = home, store, domain, settings
        self.policy, self.knowledge, self.clock = ScriptedPolicy(), ScriptedKnowledge(), Clock(2000.0)
        self.ids = IdSource(seed=1)
        self.session = self.new_session()
        self.conversation = make_conversation()
        store.add_conversation(self.conversation)

    def new_session(self, **overrides: Any) -> Session:
        fields: dict[str, Any] = {
            "settings": self.settings,
            "domain": self.domain,
            "store": self.store,
            "policy": self.policy,
            "knowledge": self.knowledge,
            "actions": Actions(self.home),
            "ids": self.ids,
            "asker": Asker(self.settings.learn.ask_share),
            "holdout_key": HOLDOUT_KEY,
            "clock": self.clock,
        }
        return Session(**fields | overrides)

    def said(self, text: str) -> Message:
        """A stored user message."""
        message_id = self.ids.message()
        message = Message(message_id, self.conversation.id, 0, "user", text, self.clock(), client_id=message_id)
        return self.store.add_user_message(message)[0]

    def stream(self, text: str) -> AsyncIterator[Delta | Message]:
        """The reply to a new message, piece by piece."""
        return self.session.reply(self.conversation, self.said(text))

    async def say(self, text: str, act: str = "") -> Message:
        """Say something, have the policy choose `act` (or the mode), and get the stored reply."""
        if act:
            self.policy.acts = [act]
        items = await drained(self.stream(text))
        assert isinstance(items[-1], Message)
        return items[-1]

    def change(self, **changes: Any) -> Conversation:
        """Settings of the conversation."""
        self.conversation = self.store.update_conversation(self.conversation.id, **changes)
        return self.conversation

    def decision_of(self, message: Message) -> Decision:
        return self.store.decision(message.decision_id)

    @property
    def signals(self) -> list[Signal]:
        return self.store.signals(self.conversation.id)

    def frozen_cards(self) -> list[str]:
        """Last digits of this person's frozen cards, in the demo database."""
        with closing(sqlite3.connect(self.home / "demo.db")) as rows:
            query = "select last4 from cards where person_id = ? and frozen_on is not null"
            return [row[0] for row in rows.execute(query, [self.conversation.person_id])]


async def drained(stream: Any) -> list[Delta | Message]:
    async with aclosing(stream) as items:
        return [item async for item in items]


@contextmanager
def open_session(home: Path, domain: str = "bank", **settings: Any) -> Iterator[Rig]:
    """A rig whose home is `home`."""
    home.mkdir(parents=True, exist_ok=True)
    with Store(home / "rejoinder.db") as store:
        yield Rig(home, store, load_domain(domain), load_settings({"home": home, "seed": 0} | settings, {}))
