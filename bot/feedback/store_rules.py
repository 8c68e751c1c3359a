"""SQL for reward rules: the versions that were applied, and history in pages for those who try rules on it.

Functions of (connection, ...). `Store` is the door to them.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field

from bot.conversation import Conversation, Signal
from bot.errors import NotFound
from bot.feedback import store_rows as rows
from bot.feedback.measures import approved_text, shown_texts
from bot.feedback.store_connection import Connection, Row

_INSERT = """
INSERT INTO rules_versions (at, author, reason, text, rules_hash, file_hash)
VALUES (:at, :author, :reason, :text, :rules_hash, :file_hash)
"""
_VERSIONS = "SELECT * FROM rules_versions ORDER BY number DESC LIMIT ?"


@dataclass(frozen=True, slots=True)
class RulesVersion:
    """Rules that somebody put in force in place of the domain's file."""

    at: float
    author: str
    reason: str
    text: str
    """The whole file as it was applied."""
    rules_hash: str
    file_hash: str
    """Hash of the domain's own rules at that time: once the file says something else, the file is in force again."""
    number: int = 0
    """Counts from 1; 0 until stored."""


@dataclass(frozen=True, slots=True)
class PastStep:
    """A decision as far as rewards are concerned: without the legal acts it was chosen from."""

    id: str
    conversation_id: str
    person_id: str
    turn: int
    created_at: float
    query: str
    act: str
    logprob: float
    version: str


@dataclass(frozen=True, slots=True)
class Past:
    """One stored conversation, with all that rules can ask for."""

    conversation: Conversation
    steps: tuple[PastStep, ...] = ()
    signals: tuple[Signal, ...] = ()
    replies: Mapping[str, str] = field(default_factory=dict)
    """Decision id -> the text that was shown."""
    approved: Mapping[str, str] = field(default_factory=dict)
    """Decision id -> the approved text behind it."""


def add_rules_version(conn: Connection, version: RulesVersion) -> int:
    """Append. Returns its number."""
    return conn.execute(_INSERT, asdict(version)).lastrowid or 0


def rules_versions(conn: Connection, limit: int) -> list[RulesVersion]:
    """Newest first."""
    return [RulesVersion(**dict(row)) for row in conn.execute(_VERSIONS, [limit])]


def rules_version(conn: Connection, number: int) -> RulesVersion:
    """Raises NotFound."""
    row = conn.execute("SELECT * FROM rules_versions WHERE number = ?", [number]).fetchone()
    if row is None:
        raise NotFound(f"no rules version {number}")
    return RulesVersion(**dict(row))


def rewards_by_rules(conn: Connection) -> dict[str, int]:
    """Hash of the rules -> reward revisions stored under it; reads the whole table."""
    found = conn.execute("SELECT rules_hash, count(*) FROM rewards GROUP BY rules_hash")
    return {row[0]: int(row[1]) for row in found}


_PAGE = "SELECT rowid, * FROM conversations WHERE rowid > ? ORDER BY rowid LIMIT ?"
_STEPS = """
SELECT d.id, d.conversation_id, d.person_id, d.turn, d.created_at, d.query, d.version,
    json_extract (d.legal, '$[' || d.chosen || '].act') AS act,
    json_extract (d.logprobs, '$[' || d.chosen || ']') AS logprob,
    json_extract (d.generated, '$.sources') AS sources
FROM conversations AS c JOIN decisions AS d ON d.conversation_id = c.id
WHERE c.rowid > :after AND c.rowid <= :upto ORDER BY c.rowid, d.turn, d.seq
"""
_SIGNALS = """
SELECT s.* FROM conversations AS c JOIN signals AS s ON s.conversation_id = c.id
WHERE c.rowid > :after AND c.rowid <= :upto ORDER BY s.seq
"""
_REPLIES = """
SELECT m.conversation_id, m.decision_id, m.text FROM conversations AS c JOIN messages AS m ON m.conversation_id = c.id
WHERE c.rowid > :after AND c.rowid <= :upto AND m.decision_id IS NOT NULL ORDER BY c.rowid, m.seq
"""


def history(conn: Connection, after: int, limit: int) -> tuple[list[Past], int]:
    """The next `limit` conversations after a position, in the order they began, and the position after them."""
    found = conn.execute(_PAGE, [after, limit]).fetchall()
    if not found:
        return [], after
    upto = int(found[-1]["rowid"])
    bound = {"after": after, "upto": upto}
    steps = _by_conversation(conn.execute(_STEPS, bound))
    signals = _by_conversation(conn.execute(_SIGNALS, bound))
    replies = _by_conversation(conn.execute(_REPLIES, bound))
    return [_past(row, steps[row["id"]], signals[row["id"]], replies[row["id"]]) for row in found], upto


def _by_conversation(found: Iterable[Row]) -> defaultdict[str, list[Row]]:
    grouped: defaultdict[str, list[Row]] = defaultdict(list)
    for row in found:
        grouped[row["conversation_id"]].append(row)
    return grouped


def _past(row: Row, steps: Iterable[Row], signals: Iterable[Row], messages: Iterable[Row]) -> Past:
    replies = shown_texts((message["decision_id"], message["text"]) for message in messages)
    known, approved = [], {}
    for step in steps:
        values = dict(step)
        sources = values.pop("sources")
        known.append(PastStep(**values))
        text = approved_text(values["act"], json.loads(sources) if sources else None, replies.get(values["id"]))
        if text is not None:
            approved[values["id"]] = text
    return Past(rows.conversation_from(row), tuple(known), tuple(map(rows.signal_from, signals)), replies, approved)
