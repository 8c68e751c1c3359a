"""Records of what customer service works with: what the inbox is asked, its lines, cases, notes, accounts, audit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bot.conversation import digest

STATES = ("bot", "waiting", "person", "resolved", "snoozed")
"""Where a conversation is. All but `snoozed` are its status; snoozed is one that an operator put off until a time."""
VIEWS = (*STATES, "open")
"""What the inbox can be asked for; `open`: neither resolved nor snoozed."""
ROLES = ("operator", "developer", "admin")
NOBODY = "nobody"
"""As assignee in a question: conversations that nobody has claimed."""


@dataclass(frozen=True, slots=True)
class InboxQuery:
    """What the inbox shows. Empty fields do not filter; all that are given must hold."""

    text: str = ""
    """Words that one message must hold, all of them; the last may be a prefix."""
    view: str = ""
    """One of VIEWS."""
    assignee: str = ""
    """An account's name, or NOBODY."""
    thumb: str = ""
    """`up` or `down`: has such a thumb in force."""
    csat: int = 0
    """1..5."""
    outcome: str = ""
    """`solved` or `not_solved`."""
    flagged: bool = False
    language: str = ""
    version: str = ""
    act: str = ""
    article: str = ""
    tag: str = ""
    since: float = 0.0
    """Epoch s: its newest message is not older."""
    until: float = 0.0
    """Epoch s: its newest message is older."""
    order: str = "newest"
    """`newest` message first, or the longest `waiting` first."""
    cursor: str = ""
    """`InboxPage.next` of the page before."""
    limit: int = 50


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a message that was found; `hit`: a word that was searched for."""

    text: str
    hit: bool


@dataclass(frozen=True, slots=True)
class InboxRow:
    """One line of the inbox. Times are epoch seconds; 0: not."""

    id: str
    created_at: float
    updated_at: float
    state: str
    """`status`, or `snoozed`."""
    status: str
    """Who speaks, asleep or not."""
    assignee: str
    waiting_since: float
    snoozed_until: float
    flagged: bool
    language: str
    last_text: str
    last_role: str
    num_messages: int
    up: int
    down: int
    csat: int
    outcome: str
    revision: int
    versions: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    snippet: tuple[Piece, ...] = ()
    """Of a search: the message found."""
    viewers: tuple[str, ...] = ()
    """Who else of the staff has it open; the store does not know, the routes do."""


@dataclass(frozen=True, slots=True)
class InboxPage:
    """Lines, and where the next page begins; `next` is empty at the end."""

    rows: tuple[InboxRow, ...]
    next: str = ""
    searched_to: float = 0.0
    """Of a search that stopped before the page was full: the time of the message it had come to."""


@dataclass(frozen=True, slots=True)
class AuditRow:
    """Who did what to what, and what was there before and after. `chain` binds it to all rows before it."""

    at: float
    actor: str
    action: str
    target: str
    before: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)
    seq: int = 0
    chain: str = ""


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody who may sign in."""

    name: str
    role: str
    password_hash: str
    created_at: float
    session_epoch: int = 0
    disabled: bool = False
    subject: str = ""
    """Of a sign-in provider's person: issuer and their id there; empty: a local account with a password."""
    display_name: str = ""
    """What end users read of a provider's person, who may have an address for a name; empty: nothing."""

    @property
    def is_released(self) -> bool:
        """Nobody's: it waits for the provider's next sign-in under its name (or for a password, which makes it local)."""
        return not self.subject and not self.password_hash


@dataclass(frozen=True, slots=True)
class Case:
    """A trusted correction: to this question, this act (and these words) are right. Times are epoch seconds, 0: not."""

    id: str
    at: float
    author: str
    question: str
    act: str
    text: str
    draft: str
    """What the bot had said, or suggested."""
    draft_act: str
    conversation_id: str
    decision_id: str = ""
    lesson_id: str = ""
    """The operator's own decision that the learner trains on; empty: words alone, or a conversation kept for the gate."""
    removed_at: float = 0.0
    removed_by: str = ""
    num_uses: int = 0
    """Replies that it stood behind."""
    taught: str = ""
    """The first version whose weights its lesson taught; empty: none yet, or not asked for (`Desk.followed`)."""
    words_taught: str = ""
    """The same of its words: the first version whose causal part learned them."""


def case_of_reply(message_id: str) -> str:
    """Id of the case that is made of an operator's own reply: made again, it is the same."""
    return f"case_{digest(message_id)[:12]}"


@dataclass(frozen=True, slots=True)
class CaseUse:
    """A case that spoke in a choice, and how loudly."""

    decision_id: str
    case_id: str
    act: str
    cosine: float
    prior_logit: float


@dataclass(frozen=True, slots=True)
class Note:
    """What operators write for each other about a conversation."""

    conversation_id: str
    at: float
    author: str
    text: str
    seq: int = 0


@dataclass(frozen=True, slots=True)
class Draft:
    """An article that somebody missed, on its way to being written. `state`: draft, published or dropped."""

    id: str
    at: float
    author: str
    title: str
    question: str
    answer: str
    conversation_id: str
    decision_id: str = ""
    state: str = "draft"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two versions' acts for one question, shown without their names. `verdict`: left, right, both or neither."""

    id: str
    at: float
    decision_id: str
    left_version: str
    left_act: str
    right_version: str
    right_act: str
    author: str = ""
    judged_at: float = 0.0
    verdict: str = ""


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict without its versions: to this question one act is better than the other."""

    decision_id: str
    better: str
    worse: str
    author: str
