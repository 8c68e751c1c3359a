"""The replay store: one SQLite file that both processes share. The only owner of SQL over it.

Everything is append-only: a change is a new row. A write returns only when it is on disk (WAL, synchronous=FULL);
concurrent writes share one commit (group commit). Readers never wait for writers.

Raises StoreError when the file cannot be used or a write was not made durable, ConflictError when an idempotency
key comes back with another body, NotFound when nothing is stored under an id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bot.conversation import Conversation, Decision, Message, Reward, Signal


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
    """Decision ids the update drew from."""
    seq: int = 0


@dataclass(frozen=True, slots=True)
class Rated:
    """A decision with the reward revision in force: one row of the replay window."""

    decision: Decision
    reward: Reward


@dataclass(frozen=True, slots=True)
class ConversationFilter:
    """What the operator's list shows. Empty fields do not filter."""

    text: str = ""
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


class Store:
    """The replay store at `path`; safe to use from many threads. `close()` when done."""

    def __init__(self, path: Path, *, readonly: bool = False) -> None: ...

    def close(self) -> None: ...

    # --- conversations and messages ---------------------------------------------------------------------------------
    def add_conversation(self, conversation: Conversation) -> None: ...
    def update_conversation(
        self, conversation_id: str, *, reply_mode: str | None = None, learn_ok: bool | None = None, status: str | None = None
    ) -> Conversation: ...
    def conversation(self, conversation_id: str) -> Conversation: ...
    def list_conversations(self, wanted: ConversationFilter) -> list[ConversationRow]: ...

    def add_user_message(self, message: Message) -> tuple[Message, bool]:
        """Store a user message (its `seq` is assigned here). Returns (stored, is_new); the same `client_id` in the same
        conversation gives the stored one back; with another text: ConflictError."""

    def add_reply(self, message: Message, decision: Decision | None) -> Message:
        """Store a bot, operator or system message and, in the same transaction, its decision. Assigns `seq`."""

    def messages(self, conversation_id: str, after_seq: int = 0) -> list[Message]: ...
    def message(self, message_id: str) -> Message: ...

    # --- decisions ----------------------------------------------------------------------------------------------------
    def decision(self, decision_id: str) -> Decision: ...
    def decisions(self, ids: Iterable[str]) -> dict[str, Decision]: ...
    def conversation_decisions(self, conversation_id: str) -> list[Decision]:
        """All decisions of a conversation, by turn."""

    # --- signals and rewards ------------------------------------------------------------------------------------------
    def add_signal(self, signal: Signal) -> Signal:
        """Append; returns it with `seq`. Same (author, key) and body: the stored one. Another body: ConflictError."""

    def signals(self, conversation_id: str) -> list[Signal]:
        """All signals of a conversation, oldest first (superseded ones included)."""

    def conversations_to_settle(self, after_seq: int, created_until: float, limit: int = 1000) -> tuple[list[str], int]:
        """Conversations with signals in (after_seq, upto] where every signal up to `upto` was created by `created_until`.
        Returns (conversation ids, upto)."""

    def settled_seq(self) -> int:
        """Signal seq up to which rewards have been computed."""

    def rewards_of(self, conversation_id: str) -> list[Reward]:
        """Every revision, oldest first."""

    def put_rewards(self, rewards: Sequence[Reward], settled_seq: int) -> int:
        """Append reward revisions and move the settling cursor, in one transaction. A (decision_id, revision) already
        there is left alone. Returns the highest reward seq."""

    # --- what the learner reads and writes ----------------------------------------------------------------------------
    def last_reward_seq(self) -> int: ...
    def count_fresh(self, after_seq: int) -> int:
        """Trainable (train_ok, not holdout) reward revisions past the cursor."""

    def window(self, until_seq: int, limit: int, *, holdout: bool = False) -> list[Rated]:
        """The newest `limit` rated decisions whose revision in force at `until_seq` is not a withdrawal, oldest first.
        Only train_ok ones; `holdout` chooses the gate's share instead of the learner's."""

    def unrated_decisions(self, conversation_id: str) -> list[Decision]: ...
    def commit_update(self, update: UpdateRow) -> int: ...
    def last_update(self) -> UpdateRow | None: ...
    def updates(self, limit: int = 500) -> list[UpdateRow]: ...

    # --- small shared state, statistics --------------------------------------------------------------------------------
    def put_status(self, name: str, value: Mapping[str, Any]) -> None:
        """A heartbeat or progress record (`learner`, `server`); the only rows that are overwritten."""

    def status(self, name: str) -> dict[str, Any] | None: ...
    def stats_by_version(self) -> list[dict[str, Any]]:
        """[{version, replies, up, down, mean_reward, rated, success}] oldest version first."""

    def stats_over_time(self, buckets: int = 60) -> list[dict[str, Any]]:
        """[{at, replies, up, down, reward}] over the store's whole life in equal buckets."""

    def counts(self) -> dict[str, int]:
        """Rows per table, for metrics and crash tests."""
