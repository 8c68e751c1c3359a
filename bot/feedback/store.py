"""The replay store: one SQLite file that both processes share. The only owner of SQL over it.

Everything is append-only: a change is a new row (except a conversation's settings, and status records). A write
returns only when it is on disk (WAL, synchronous=FULL); concurrent writes share one commit (group commit). Readers
never wait for writers.

Raises StoreError when the file cannot be used, a write was not made durable, or a value cannot be stored; ConflictError
when an idempotency key comes back with another body; NotFound when nothing is stored under an id. After an error that
is not a ConflictError or a NotFound, sending the same thing again is safe.

Layout: `schema` and `migrations` (the file), `store_connection` (opening it), `store_writer` (the writer thread),
`store_rows` (records to rows), `store_writes`, `store_reads`, `store_reports` (the SQL). `Store` is the door to all;
what customer service works with is behind `Store.desk`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from bot.conversation import Conversation, Decision, Message, Reward, Signal
from bot.errors import StoreError
from bot.feedback import store_erasure as erasure
from bot.feedback import store_gaps as gaps
from bot.feedback import store_lessons as studio
from bot.feedback import store_reads as reads
from bot.feedback import store_reports as reports
from bot.feedback import store_rules as rules
from bot.feedback import store_writes as writes
from bot.feedback.desk import Desk
from bot.feedback.desk_records import Case, CaseUse
from bot.feedback.migrations import check_migrated, migrate
from bot.feedback.store_connection import BUSY_TIMEOUT_S, Connection, ReaderPool, open_writer, store_errors
from bot.feedback.store_gaps import Unanswered
from bot.feedback.store_kept import KeptDecisions
from bot.feedback.store_lessons import Taught
from bot.feedback.store_records import (
    ConversationFilter,
    ConversationRow,
    Erasure,
    Rated,
    Tally,
    UpdateRow,
    tracker_name,
)
from bot.feedback.store_rules import Past, RulesVersion
from bot.feedback.store_writer import MAX_WAITING, Writer

__all__ = [
    "ConversationFilter",
    "ConversationRow",
    "Erasure",
    "Past",
    "Rated",
    "RulesVersion",
    "Store",
    "Tally",
    "Taught",
    "Unanswered",
    "UpdateRow",
]

P = ParamSpec("P")
T = TypeVar("T")


class Store:
    """The replay store at `path`; safe to use from many threads. `close()` when done, or use it as a context manager.

    `readonly` opens an existing store for reading only; writes then raise StoreError.
    """

    def __init__(
        self,
        path: Path,
        *,
        readonly: bool = False,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self.path = path
        self._readers = ReaderPool(path)
        self._kept = KeptDecisions()
        self.desk = Desk(self._read, self._write)
        self._writer = None if readonly else _open_writer(path, busy_timeout_s, max_waiting)
        if readonly:
            self._read(check_migrated)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Finish the writes that wait, then close. Later calls raise StoreError."""
        if self._writer is not None:
            self._writer.close()
        self._readers.close()

    @property
    def num_commits(self) -> int:
        """Commits made through this object: concurrent writes share them."""
        return self._writer.num_commits if self._writer else 0

    def _read(self, read: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        with store_errors("cannot read the replay store"), self._readers.borrow() as conn:
            return read(conn, *args, **kwargs)

    def _write(self, write: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._writer is None:
            raise StoreError(f"{self.path} is open for reading only")
        return self._writer.submit(lambda conn: write(conn, *args, **kwargs))

    # --- conversations and messages ---------------------------------------------------------------------------------
    def add_conversation(self, conversation: Conversation) -> None:
        """Store a new conversation. The same one twice is one row; another one under its id: ConflictError."""
        self._write(writes.add_conversation, conversation)

    def update_conversation(
        self,
        conversation_id: str,
        *,
        reply_mode: str | None = None,
        learn_ok: bool | None = None,
        status: str | None = None,
    ) -> Conversation:
        """Change the settings that are given; returns the conversation as it is now."""
        changes = {"reply_mode": reply_mode, "learn_ok": learn_ok, "status": status}
        return self._write(writes.update_conversation, conversation_id, changes)

    def conversation(self, conversation_id: str) -> Conversation:
        """Raises NotFound."""
        return self._read(reads.conversation, conversation_id)

    def erase_conversation(self, conversation_id: str, *, author: str, at: float) -> Erasure:
        """Forget it: every row that holds its words, choices, signals or rewards. What stays is the record that is
        returned. Raises NotFound."""
        erased = self._write(erasure.erase_conversation, conversation_id, author, at)
        erasure.fold_log(self.path)
        return erased

    def list_conversations(self, wanted: ConversationFilter) -> list[ConversationRow]:
        """Newest first."""
        return self._read(reports.list_conversations, wanted)

    def add_user_message(self, message: Message) -> tuple[Message, bool]:
        """Store a user message (its `seq` is assigned here). Returns (stored, is_new); the same `client_id` in the same
        conversation gives the stored one back; with another text: ConflictError."""
        return self._write(writes.add_user_message, message)

    def add_reply(
        self,
        message: Message,
        decision: Decision | None,
        *,
        tracker: Mapping[str, Any] | None = None,
        status: str = "",
        language: str = "",
        case_use: CaseUse | None = None,
        events: Sequence[Mapping[str, Any]] = (),
    ) -> Message:
        """Store a bot, operator or system message and, in the same transaction, its decision, what the conversation
        remembers from now on (`tracker`, plain values) and who is speaking (`status`; empty: as before), what it is written in (`language`), the
        case that spoke in the choice, and what the step did beside speaking (`events`, as Rasa's). Assigns `seq`. The same message id twice is one row and changes nothing; with another
        content: ConflictError. Raises TurnTaken while somebody else speaks (`store_desk.check_turn`)."""
        return self._write(writes.add_reply, message, decision, tracker, status, language, case_use, events)

    def tracker(self, conversation_id: str) -> dict[str, Any] | None:
        """What the conversation remembers, as the last `add_reply` put it; None before the first."""
        return self.status(tracker_name(conversation_id))

    def messages(self, conversation_id: str, after_seq: int = 0) -> list[Message]:
        """Those after `after_seq`, in order. Empty for an unknown conversation."""
        return self._read(reads.messages, conversation_id, after_seq)

    def message(self, message_id: str) -> Message:
        """Raises NotFound."""
        return self._read(reads.message, message_id)

    def newest_replies(self, limit: int) -> list[Message]:
        """The newest `limit` replies that a policy chose, in any conversation, oldest first."""
        return self._read(reads.newest_replies, limit)

    # --- decisions ----------------------------------------------------------------------------------------------------
    def decision(self, decision_id: str) -> Decision:
        """Raises NotFound."""
        return self._read(reads.decision, decision_id)

    def decisions(self, ids: Iterable[str]) -> dict[str, Decision]:
        """Those of `ids` that are stored, by id."""
        return self._read(reads.decisions, ids, self._kept)

    def decisions_of(self, conversation_ids: Iterable[str]) -> list[Decision]:
        """All decisions of these conversations, in the order given and by turn."""
        return self._read(reads.decisions_of, conversation_ids, self._kept)

    def conversation_decisions(self, conversation_id: str) -> list[Decision]:
        """All decisions of a conversation, by turn."""
        return self._read(reads.conversation_decisions, conversation_id)

    def action_events(self, conversation_id: str) -> dict[str, list[dict[str, Any]]]:
        """Decision id -> what its step did beside speaking; steps that only spoke are left out."""
        return self._read(reads.action_events, conversation_id)

    # --- signals and rewards ------------------------------------------------------------------------------------------
    def add_signal(self, signal: Signal) -> Signal:
        """Append; returns it with `seq`. Same (author, key) and body: the stored one. Another body: ConflictError.
        NotFound unless its decision belongs to its conversation."""
        return self._write(writes.add_signal, signal)

    def signals(self, conversation_id: str) -> list[Signal]:
        """All signals of a conversation, oldest first (superseded ones included)."""
        return self._read(reads.signals, conversation_id)

    def conversations_to_settle(self, after_seq: int, created_until: float, limit: int = 1000) -> tuple[list[str], int]:
        """Conversations with signals in (after_seq, upto] where every signal up to `upto` was created by
        `created_until`; looks at `limit` signals at most. Returns (conversation ids, upto)."""
        return self._read(reads.conversations_to_settle, after_seq, created_until, limit)

    def settled_seq(self) -> int:
        """Signal seq up to which rewards have been computed."""
        return self._read(reads.settled_seq)

    def rewards_of(self, conversation_id: str) -> list[Reward]:
        """Every revision, oldest first."""
        return self._read(reads.rewards_of, conversation_id)

    def put_rewards(self, rewards: Sequence[Reward], settled_seq: int) -> int:
        """Append reward revisions and move the settling cursor (never back), in one transaction. A (decision_id, scope,
        revision) already there is left alone; with another value or terms: ConflictError and nothing is stored.
        Returns the highest reward seq."""
        return self._write(writes.put_rewards, rewards, settled_seq)

    # --- reward rules -------------------------------------------------------------------------------------------------
    def add_rules_version(self, version: RulesVersion) -> int:
        """Append rules that are in force from now on; returns their number."""
        return self._write(rules.add_rules_version, version)

    def rules_versions(self, limit: int = 100) -> list[RulesVersion]:
        """Newest first."""
        return self._read(rules.rules_versions, limit)

    def rules_version(self, number: int) -> RulesVersion:
        """Raises NotFound."""
        return self._read(rules.rules_version, number)

    def rewards_by_rules(self) -> dict[str, int]:
        """Hash of the rules -> reward revisions that were given under it, those in force and those before."""
        return self._read(rules.rewards_by_rules)

    def history(self, after: int = 0, limit: int = 500) -> tuple[list[Past], int]:
        """The next `limit` conversations after a position, with all that rules can ask for, and the position after
        them. Empty at the end."""
        return self._read(rules.history, after, limit)

    # --- what the learner reads and writes ----------------------------------------------------------------------------
    def last_reward_seq(self) -> int:
        """0 before the first reward."""
        return self._read(reads.last_reward_seq)

    def count_fresh(self, after_seq: int) -> int:
        """Trainable (train_ok, consent stands, not holdout) reward revisions past the cursor, withdrawals included."""
        return self._read(reads.count_fresh, after_seq)

    def window(self, until_seq: int, limit: int, *, holdout: bool = False) -> list[Rated]:
        """The newest `limit` rewards whose revision in force at `until_seq` is not a withdrawal, oldest first, each
        with its decision. In force: the highest revision of a (decision_id, scope) with seq <= `until_seq`, so the same
        call gives the same rows whatever was appended since. Only train_ok ones of conversations whose consent stands
        now; `holdout` chooses the gate's share instead of the learner's."""
        return self._read(reads.window, until_seq, limit, holdout, self._kept)

    def commit_update(self, update: UpdateRow) -> int:
        """Append; returns its seq. StoreError when its cursor is behind the last one's."""
        return self._write(writes.commit_update, update)

    def last_update(self) -> UpdateRow | None:
        """None before the first update."""
        return next(iter(self.updates(1)), None)

    def updates(self, limit: int = 500) -> list[UpdateRow]:
        """The newest `limit`, oldest first."""
        return self._read(reads.updates, limit)

    # --- small shared state, statistics -------------------------------------------------------------------------------
    def put_status(self, name: str, value: Mapping[str, Any]) -> None:
        """A heartbeat or progress record (`learner`, `server`); overwritten each time."""
        self._write(writes.put_status, name, value)

    def status(self, name: str) -> dict[str, Any] | None:
        """The last record put under `name`; None before the first."""
        return self._read(reads.status, name)

    def stats_by_version(self) -> list[dict[str, Any]]:
        """[{version, replies, up, down, mean_reward, rated, success}] oldest version first. Thumbs and rewards in
        force; `mean_reward` over the `rated` replies' reply rewards, `success` over outcomes of the conversations the
        version spoke in; None where there are none."""
        return self._read(reports.stats_by_version)

    def tallies(self, one: str, other: str, since: float) -> dict[str, Tally]:
        """People's word since then (epoch s) on two versions that serve side by side, conversation by conversation."""
        return self._read(reports.tallies, one, other, since)

    def stats_over_time(self, buckets: int = 60) -> list[dict[str, Any]]:
        """[{at, replies, up, down, reward}] over the store's whole life in equal buckets by the time of the reply; `at`
        is a bucket's start (epoch s), `reward` the mean reply reward, None where nothing was rated."""
        return self._read(reports.stats_over_time, buckets)

    def stats_by_article(self) -> list[dict[str, Any]]:
        """[{article, replies, up, down, mean_reward, by_version: [{version, replies, up, down, rated, mean_reward}]}], of
        every article that was answered with; rewards of replies, in force."""
        return self._read(studio.stats_by_article)

    def lessons(self, version: str, limit: int = 100) -> tuple[int, list[Taught]]:
        """(replies that taught a version, the conversations they are of, newest first). Raises NotFound."""
        return self._read(studio.lessons, version, limit)

    def words_taught(self, version: str, limit: int = 100) -> list[Case]:
        """Corrections whose own words taught a version's causal part, newest first, those taken back since too; erased ones
        are gone. Raises NotFound."""
        return self._read(studio.words_taught, version, limit)

    def newest_questions(self, limit: int) -> list[str]:
        """Of the newest `limit` messages by people each text once, newest first."""
        return self._read(studio.newest_questions, limit)

    # --- what articles are missing ------------------------------------------------------------------------------------
    def unanswered(self, limit: int = 300) -> list[Unanswered]:
        """The newest questions that went wrong (out of scope, handed over, thumb down), newest first."""
        return self._read(gaps.unanswered, limit)

    def counts(self) -> dict[str, int]:
        """Rows per table, for metrics and crash tests."""
        return self._read(reports.counts)


def _open_writer(path: Path, busy_timeout_s: float, max_waiting: int) -> Writer:
    conn = open_writer(path, busy_timeout_s)
    try:
        with store_errors(f"cannot prepare {path}"):
            migrate(conn)
    except StoreError:
        conn.close()
        raise
    return Writer(conn, max_waiting=max_waiting)
