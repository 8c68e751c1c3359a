"""The reads the loop rests on: functions of (connection, ...). Rows never change, so several statements agree.

Learner reads cost in proportion to the rows they return, however large the store: each walks an index from the cursor
on and stops (the window also steps over revisions that were superseded on its way). `store_reports` holds the reads made for people, which may scan.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from bot.conversation import Conversation, Decision, Message, Reward, Signal
from bot.errors import NotFound
from bot.feedback import store_rows as rows
from bot.feedback.store_connection import Connection, Row
from bot.feedback.store_kept import KeptDecisions
from bot.feedback.store_records import Rated, UpdateRow

SETTLED = "settled"
"""Name of the cursor over signals: up to there, rewards have been computed."""

SIGNALS_AFTER = "SELECT seq, conversation_id, created_at FROM signals WHERE seq > ? ORDER BY seq LIMIT ?"

# The last lines of both reads are consent as it stands now: who says "do not learn from my conversation" takes back its
# past rows as well, rewarded or not, and the lessons that operators made of it. A case taken back takes its lesson along.
_CONSENT = """
AND EXISTS (SELECT 1 FROM conversations AS c WHERE c.id = r.conversation_id AND c.learn_ok = 1)
AND NOT EXISTS (
    SELECT 1 FROM cases AS k JOIN conversations AS taught ON taught.id = k.conversation_id
    WHERE k.lesson_id = r.decision_id AND (k.removed_at > 0 OR taught.learn_ok = 0))
"""

COUNT_FRESH = f"""
SELECT count(*) FROM rewards AS r WHERE r.train_ok = 1 AND r.holdout = 0 AND r.seq > ?
{_CONSENT}"""  # noqa: S608 - ours

WINDOW = f"""
SELECT * FROM rewards AS r
WHERE r.train_ok = 1 AND r.holdout = :holdout AND r.seq <= :until_seq AND r.value IS NOT NULL
AND NOT EXISTS (
    SELECT 1 FROM rewards AS newer WHERE newer.decision_id = r.decision_id AND newer.scope = r.scope
    AND newer.revision > r.revision AND newer.seq <= :until_seq)
{_CONSENT}ORDER BY r.seq DESC LIMIT :limit
"""  # noqa: S608 - ours

LAST_REWARD = "SELECT max(seq) FROM rewards"

_MAX_BOUND = 500
"""Values bound in one statement."""


def _one(conn: Connection, sql: str, what: str, key: str) -> Row:
    row: Row | None = conn.execute(sql, [key]).fetchone()
    if row is None:
        raise NotFound(f"no {what} {key!r}")
    return row


def _where_in(conn: Connection, select: str, values: Iterable[str]) -> Iterator[Row]:
    """Run `select ... IN (values)` a bounded number of values at a time."""
    remaining = iter(values)
    while chunk := list(islice(remaining, _MAX_BOUND)):
        yield from conn.execute(f"{select} IN ({', '.join('?' * len(chunk))})", chunk)


# --- conversations and messages ---------------------------------------------------------------------------------------
def conversation(conn: Connection, conversation_id: str) -> Conversation:
    """Raises NotFound."""
    found = _one(conn, "SELECT * FROM conversations WHERE id = ?", "conversation", conversation_id)
    return rows.conversation_from(found)


def message(conn: Connection, message_id: str) -> Message:
    """Raises NotFound."""
    return rows.message_from(_one(conn, "SELECT * FROM messages WHERE id = ?", "message", message_id))


def messages(conn: Connection, conversation_id: str, after_seq: int) -> list[Message]:
    """In order."""
    sql = "SELECT * FROM messages WHERE conversation_id = ? AND seq > ? ORDER BY seq"
    return [rows.message_from(row) for row in conn.execute(sql, [conversation_id, after_seq])]


def newest_replies(conn: Connection, limit: int) -> list[Message]:
    """Oldest first."""
    sql = "SELECT * FROM messages WHERE role = 'bot' AND decision_id IS NOT NULL ORDER BY row_id DESC LIMIT ?"
    return [rows.message_from(row) for row in reversed(conn.execute(sql, [limit]).fetchall())]


# --- decisions --------------------------------------------------------------------------------------------------------
def _decisions_from(conn: Connection, found: Sequence[Row]) -> list[Decision]:
    select = "SELECT digest, texts FROM act_texts WHERE digest"
    stored = _where_in(conn, select, rows.digests_of(found))
    texts = {row["digest"]: tuple(json.loads(row["texts"])) for row in stored}
    return [rows.decision_from(row, texts) for row in found]


def decision(conn: Connection, decision_id: str) -> Decision:
    """Raises NotFound."""
    found = _one(conn, "SELECT * FROM decisions WHERE id = ?", "decision", decision_id)
    return _decisions_from(conn, [found])[0]


def decisions(conn: Connection, ids: Iterable[str], kept: KeptDecisions | None = None) -> dict[str, Decision]:
    """Those that are stored, by id; rows that `kept` holds are not read."""
    kept = kept or KeptDecisions(0)
    found = kept.among(wanted := dict.fromkeys(ids))
    missing = list(_where_in(conn, "SELECT * FROM decisions WHERE id", (id_ for id_ in wanted if id_ not in found)))
    read = {decision.id: decision for decision in _decisions_from(conn, missing)}
    kept.keep(read)
    return found | read


def decisions_of(conn: Connection, conversation_ids: Iterable[str], kept: KeptDecisions) -> list[Decision]:
    """All of these conversations, in the order given, each by turn."""
    names = dict.fromkeys(conversation_ids)
    found = _where_in(conn, "SELECT conversation_id, turn, seq, id FROM decisions WHERE conversation_id", names)
    by_name: dict[str, list[str]] = {name: [] for name in names}
    for name, _, _, decision_id in sorted(map(tuple, found)):
        by_name[name].append(decision_id)
    order = [decision_id for ids in by_name.values() for decision_id in ids]
    read = decisions(conn, order, kept)
    return [read[decision_id] for decision_id in order]


def conversation_decisions(conn: Connection, conversation_id: str) -> list[Decision]:
    """By turn; several of one turn in the order stored."""
    sql = "SELECT * FROM decisions WHERE conversation_id = ? ORDER BY turn, seq"
    return _decisions_from(conn, conn.execute(sql, [conversation_id]).fetchall())


# --- signals and rewards ----------------------------------------------------------------------------------------------
def signals(conn: Connection, conversation_id: str) -> list[Signal]:
    """Oldest first."""
    sql = "SELECT * FROM signals WHERE conversation_id = ? ORDER BY seq"
    return [rows.signal_from(row) for row in conn.execute(sql, [conversation_id])]


def conversations_to_settle(
    conn: Connection, after_seq: int, created_until: float, limit: int
) -> tuple[list[str], int]:
    """Looks at `limit` signals at most, and stops at the first that is too young."""
    found: dict[str, None] = {}
    upto = after_seq
    for seq, conversation_id, created_at in conn.execute(SIGNALS_AFTER, [after_seq, limit]):
        if created_at > created_until:
            break
        found[conversation_id] = None
        upto = seq
    return list(found), upto


def settled_seq(conn: Connection) -> int:
    """0 before the first settling."""
    row = conn.execute("SELECT seq FROM cursors WHERE name = ?", [SETTLED]).fetchone()
    return int(row["seq"]) if row else 0


def rewards_of(conn: Connection, conversation_id: str) -> list[Reward]:
    """Every revision, oldest first."""
    sql = "SELECT * FROM rewards WHERE conversation_id = ? ORDER BY seq"
    return [rows.reward_from(row) for row in conn.execute(sql, [conversation_id])]


# --- what the learner reads -------------------------------------------------------------------------------------------
def last_reward_seq(conn: Connection) -> int:
    """0 before the first reward."""
    return int(conn.execute(LAST_REWARD).fetchone()[0] or 0)


def count_fresh(conn: Connection, after_seq: int) -> int:
    """Trainable revisions past the cursor."""
    return int(conn.execute(COUNT_FRESH, [after_seq]).fetchone()[0])


def window(conn: Connection, until_seq: int, limit: int, holdout: bool, kept: KeptDecisions) -> list[Rated]:
    """Oldest first."""
    bound = {"until_seq": until_seq, "limit": limit, "holdout": int(holdout)}
    rewards = [rows.reward_from(row) for row in reversed(conn.execute(WINDOW, bound).fetchall())]
    rated = decisions(conn, (reward.decision_id for reward in rewards), kept)
    return [Rated(rated[reward.decision_id], reward) for reward in rewards]


def updates(conn: Connection, limit: int) -> list[UpdateRow]:
    """The newest `limit`, oldest first."""
    found = conn.execute("SELECT * FROM updates ORDER BY seq DESC LIMIT ?", [limit]).fetchall()
    return [rows.update_from(row) for row in reversed(found)]


def status(conn: Connection, name: str) -> dict[str, Any] | None:
    """None before the first."""
    row = conn.execute("SELECT value FROM status WHERE name = ?", [name]).fetchone()
    return dict(json.loads(row["value"])) if row else None


def action_events(conn: Connection, conversation_id: str) -> dict[str, list[dict[str, Any]]]:
    """Of a conversation's decisions."""
    found = conn.execute(
        "SELECT e.* FROM action_events AS e JOIN decisions AS d ON d.id = e.decision_id WHERE d.conversation_id = ?",
        [conversation_id],
    )
    return {row["decision_id"]: json.loads(row["events"]) for row in found}
