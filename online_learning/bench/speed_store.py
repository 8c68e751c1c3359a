"""Updates of the real loop on a real store of any size: what one costs, and what of it is reading.

The store is filled in bulk through its own schema, without transcripts (the learner never reads them); the rewards of an
update come in through the store's door, one by one, as a server would put them there.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from bot.conversation import BASE_VERSION, Conversation, Decision, Message, Reward, RewardTerm, Signal, SignalKind
from bot.feedback import store_rows as rows
from bot.feedback.store import Store, UpdateRow
from bot.feedback.store_connection import Connection, open_writer, transaction
from bot.feedback.store_reads import SETTLED
from online_learning.bench.speed_rows import TURNS_A_CONVERSATION
from online_learning.loop import Loop

P = ParamSpec("P")
T = TypeVar("T")

_INSERT = "INSERT OR IGNORE INTO {table} ({columns}) VALUES ({places})"
ROWS_A_COMMIT = 50_000
"""In one transaction a million would make a log as large as the store."""
_SETTLED = "INSERT OR REPLACE INTO cursors (name, seq) VALUES (?, (SELECT max(seq) FROM signals))"


class TimedStore(Store):
    """Adds up what its reads take, by the name of the read."""

    def __init__(self, path: Path) -> None:
        self.reads_s: defaultdict[str, float] = defaultdict(float)
        super().__init__(path)

    def _read(self, read: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        began = time.perf_counter()
        try:
            return super()._read(read, *args, **kwargs)
        finally:
            self.reads_s[getattr(read, "__name__", "?")] += time.perf_counter() - began


@dataclass(frozen=True, slots=True)
class Cost:
    """One update, in seconds."""

    step_s: float
    """From rewards that have not settled to the pointer."""
    judged_s: float
    """From drawing rows to the gate's verdict, a share of it."""
    reads_s: float
    """Reads of the store, a share of it."""
    slowest_read: str


# --- filling ----------------------------------------------------------------------------------------------------------
def fill(path: Path, like: Sequence[Decision], first: int, end: int) -> None:
    """Append decisions `first` to `end`, copies of `like` in conversations of their own, each with a settled thumb.

    A store that is there grows; an update commits that all of it was learned from.
    """
    Store(path).close()
    conn, copied = open_writer(path), [rows.decision_row(decision) for decision in like]
    try:
        for start in range(first, end, ROWS_A_COMMIT):
            numbers = range(start, min(start + ROWS_A_COMMIT, end))
            with transaction(conn):
                _insert(conn, "act_texts", (_text_row(*row) for d in like for row in rows.act_texts_rows(d)))
                chats = map(_conversation, numbers[::TURNS_A_CONVERSATION])
                _insert(conn, "conversations", map(rows.conversation_row, chats))
                _insert(conn, "decisions", (copied[n % len(copied)] | _place(n) for n in numbers))
                _insert(conn, "signals", (rows.signal_row(_thumb(like[n % len(like)], n)) for n in numbers))
                _insert(conn, "rewards", map(_reward_row, numbers))
                conn.execute(_SETTLED, [SETTLED])
    finally:
        conn.close()
    with Store(path) as store:
        store.commit_update(UpdateRow(time.time(), store.last_reward_seq(), "", "skipped", BASE_VERSION, {}, ()))


def _insert(conn: Connection, table: str, found: Iterable[Mapping[str, Any]]) -> None:
    """All rows have the first one's columns."""
    remaining = iter(found)
    for row in remaining:
        columns, places = ", ".join(row), ", ".join(f":{column}" for column in row)
        sql = _INSERT.format(table=table, columns=columns, places=places)
        conn.execute(sql, row)
        conn.executemany(sql, remaining)


def _text_row(digest: str, texts: str) -> dict[str, str]:
    return {"digest": digest, "texts": texts}


def _conversation(number: int) -> Conversation:
    group = number // TURNS_A_CONVERSATION
    return Conversation(f"s{group}", f"p{group}", float(number), "bench")


def _place(number: int) -> dict[str, Any]:
    """What of a copied decision is its own. One conversation in seven is held out."""
    chat = _conversation(number)
    return {
        "id": f"s{number}",
        "conversation_id": chat.id,
        "person_id": chat.person_id,
        "turn": number % TURNS_A_CONVERSATION + 1,
        "created_at": float(number),
        "holdout": int(number // TURNS_A_CONVERSATION % 7 == 0),
    }


def _is_liked(number: int) -> bool:
    return number % 10 < 7


def _thumb(decision: Decision, number: int) -> Signal:
    """Three in ten are down."""
    chat, value = _conversation(number), 1.0 if _is_liked(number) else -1.0
    return Signal(f"k{number}", chat.id, SignalKind.THUMB, value, chat.person_id, decision.created_at, f"s{number}")


def _reward_row(number: int) -> dict[str, Any]:
    place, value = _place(number), 0.5 if _is_liked(number) else -0.5
    terms = (RewardTerm("thumb", value, number + 1),)
    reward = Reward(place["id"], place["conversation_id"], 1, value, "reply", terms, "bench", float(number))
    return rows.reward_row(reward) | {"train_ok": 1, "holdout": place["holdout"]}


# --- measuring --------------------------------------------------------------------------------------------------------
def rate(store: Store, decision: Decision, number: int) -> None:
    """Through the door: a conversation, a reply, a thumb."""
    now, name = time.time(), f"f{number}"
    decision = replace(decision, id=name, conversation_id=name, person_id=name, turn=1, created_at=now)
    store.add_conversation(Conversation(name, name, now, "bench"))
    store.add_reply(Message(f"m{number}", name, 0, "bot", "", now, decision_id=name, act=decision.act), decision)
    value = 1.0 if _is_liked(number) else -1.0
    store.add_signal(Signal(f"k{number}", name, SignalKind.THUMB, value, name, now, name))


class TimedLoop:
    """A loop whose updates are timed, on a store of its own."""

    def __init__(self, loop: Loop, store: TimedStore) -> None:
        self.loop = loop
        self._store = store
        self._num_rated = 0

    def update(self, fresh: Iterator[Decision]) -> Cost:
        """Rate as many replies as make an update due, and time it."""
        for _ in range(self.loop.settings.learn.update_every):
            self._num_rated += 1
            rate(self._store, next(fresh), self._num_rated)
        self._store.reads_s.clear()
        began = time.perf_counter()
        worked = self.loop.step()
        step_s, reads = time.perf_counter() - began, self._store.reads_s
        reads_s, slowest = sum(reads.values()), max(reads, key=lambda name: reads[name])
        assert worked, "expected an update, none was due"
        last = self._store.last_update()
        assert last is not None
        return Cost(step_s, float(last.metrics["seconds"]), reads_s, slowest)
