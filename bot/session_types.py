"""What a session is given, as narrow Protocols, and the records on its road from a message to a reply."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from bot.conversation import Conversation, LegalAct, State
from bot.domain import Domain
from bot.policy.acts import Candidate, Precedent


class Found(Protocol):
    """What retrieval says of a question, best first."""

    @property
    def articles(self) -> Sequence[Candidate]:
        """Candidate articles."""

    @property
    def triggers(self) -> Sequence[Candidate]:
        """Responses and actions with their cosines."""

    @property
    def query(self) -> str:
        """The question as it was read: slips mended, asides left out."""

    @property
    def precedent(self) -> Precedent | None:
        """A trusted correction of the same question."""


class Knowledge(Protocol):
    """Retrieval over the domain."""

    @property
    def revision(self) -> str:
        """Changes with the texts."""

    async def find(self, query: str, num_articles: int) -> Found:
        """Candidates for a question."""


class ActionResult(Protocol):
    """What an action or a form said and set."""

    @property
    def texts(self) -> Sequence[str]:
        """Bot messages, in order."""

    @property
    def slots(self) -> dict[str, Any]:
        """Slots that changed."""

    @property
    def buttons(self) -> Sequence[str]:
        """Quick replies offered with the texts."""

    @property
    def events(self) -> Sequence[dict[str, Any]]:
        """Rasa events that are not about slots."""

    @property
    def error(self) -> str:
        """One line when it failed; empty when it did not."""


class FormFilling(Protocol):
    """One step of a form."""

    @property
    def texts(self) -> Sequence[str]:
        """Bot messages, in order."""

    @property
    def slots(self) -> dict[str, Any]:
        """Slots that changed."""

    @property
    def next_slot(self) -> str | None:
        """What to ask next; None: the form is filled."""


class Actions(Protocol):
    """The domain's rasa-sdk actions."""

    async def run(self, name: str, *, state: State, person_id: str, domain: Domain) -> ActionResult:
        """Run an action."""

    async def fill(self, form: str, *, state: State, person_id: str, domain: Domain) -> FormFilling:
        """Take the requested slot from the last message, validate it, say what is asked next."""


class Ids(Protocol):
    """Fresh ids."""

    def message(self) -> str:
        """Of a message."""

    def decision(self) -> str:
        """Of a decision."""


@dataclass(frozen=True, slots=True)
class Tracker:
    """What a conversation remembers between messages besides its words. Stored with each reply, as JSON."""

    slots: dict[str, Any] = field(default_factory=dict)
    active_form: str = ""
    requested_slot: str = ""


@dataclass(frozen=True, slots=True)
class Situation:
    """A message with everything known before the choice."""

    conversation: Conversation
    state: State
    query: str
    """What the encoder part is shown."""
    tracker: Tracker
    legal: tuple[LegalAct, ...]
    form_texts: tuple[str, ...]
    turn: int
    asked_before: tuple[bool, ...]
    """Of the bot's replies so far: whether a rating was asked for."""
    retrieval_ms: float
    precedent: Precedent | None = None
    before: Tracker = field(default_factory=Tracker)
    """The tracker as the last reply left it."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """What the bot says and how the conversation stands afterwards."""

    text: str
    tracker: Tracker
    sources: tuple[str, ...] = ()
    quick_replies: tuple[str, ...] = ()
    status: str = ""
    ran: tuple[dict[str, Any], ...] = ()
    """Events of the action that ran."""
