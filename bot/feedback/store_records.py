"""The replay store's own records, beside those of `bot.conversation`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bot.conversation import Conversation, Decision, Reward


def tracker_name(conversation_id: str) -> str:
    """Status record that holds what a conversation remembers besides its words."""
    return f"tracker:{conversation_id}"


@dataclass(frozen=True, slots=True)
class UpdateRow:
    """One finished learner update: what it consumed and what became of it. Committed in one transaction."""

    at: float
    cursor: int
    """Reward seq up to which every revision has entered the replay window."""
    checkpoint: str
    """Folder name of the durable learner checkpoint this row belongs to."""
    outcome: str
    """`published`, `refused`, `skipped`."""
    version: str
    """The version published, or the champion that stayed."""
    metrics: Mapping[str, Any]
    lineage: tuple[str, ...] = ()
    """Ids of the decisions the update drew from, and of the cases whose words it did."""
    seq: int = 0


@dataclass(frozen=True, slots=True)
class Erasure:
    """What was forgotten of one conversation, without a word of it."""

    at: float
    author: str
    """Who asked for it: `person`, or `operator:NAME`."""
    conversation_id: str
    num_messages: int
    num_decisions: int
    num_signals: int
    versions: tuple[str, ...]
    """Versions that were published from updates drawing on its decisions, or on cases made of them: its lineage."""


@dataclass(frozen=True, slots=True)
class Rated:
    """A decision with one reward revision in force: one row of the replay window.

    A decision with a reply reward and a conversation reward makes two rows.
    """

    decision: Decision
    reward: Reward


@dataclass(frozen=True, slots=True)
class ConversationFilter:
    """What the operator's list shows. Empty fields do not filter."""

    text: str = ""
    """Words that one message must hold, all of them; the last may be a prefix."""
    thumb: int = 0
    """+1 or -1: has such a thumb in force."""
    version: str = ""
    status: str = ""
    before: float = 0.0
    """Only conversations created earlier than this (epoch s): the page cursor."""
    limit: int = 50


@dataclass(frozen=True, slots=True)
class ConversationRow:
    """One line of the operator's list."""

    conversation: Conversation
    last_text: str
    num_messages: int
    thumbs_up: int
    thumbs_down: int
    versions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tally:
    """People's word on one version. Sums are over conversations, since one person's thumbs are not independent."""

    version: str
    conversations: int = 0
    """In which it spoke."""
    replies: int = 0
    rated: int = 0
    """Conversations with thumbs on its replies."""
    up: float = 0.0
    """Sum over them of the share of thumbs that are up."""
    up_squares: float = 0.0
    """Sum of the squares of these shares."""
    outcomes: int = 0
    """Conversations of which it is known whether the problem was solved."""
    solved: float = 0.0
    """How many of these were."""
