"""SQL for the studio: what became of each article, who taught a version, what was asked. Made for people; may scan.

Functions of (connection, ...). `Store` is the door to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bot.errors import NotFound
from bot.feedback.desk_records import Case
from bot.feedback.store_connection import Connection

_BY_ACT = """
WITH thumbs AS (
    SELECT decision_id, sum(value > 0) AS up, sum(value < 0) AS down
    FROM signals_in_force WHERE kind = 'thumb' GROUP BY decision_id
)
SELECT m.act, m.version, count(*) AS replies, coalesce(sum(thumbs.up), 0) AS up, coalesce(sum(thumbs.down), 0) AS down,
    count(r.value) AS rated, avg(r.value) AS mean_reward
FROM messages AS m
LEFT JOIN thumbs ON thumbs.decision_id = m.decision_id
LEFT JOIN rewards_in_force AS r ON r.decision_id = m.decision_id AND r.scope = 'reply'
WHERE m.decision_id IS NOT NULL AND substr(m.act, 1, 7) = 'answer:'
GROUP BY m.act, m.version ORDER BY m.act, m.version
"""

_UPDATE_OF = """
SELECT seq, (SELECT count(*) FROM json_each(lineage) AS drawn WHERE substr(drawn.value, 1, 5) <> 'case_') AS num_decisions
FROM updates WHERE version = ? AND outcome = 'published' ORDER BY seq DESC LIMIT 1
"""
_TAUGHT = """
SELECT d.conversation_id, count(DISTINCT d.id) AS num_decisions, max(d.created_at) AS at, avg(r.value) AS mean_reward
FROM updates AS u, json_each(u.lineage) AS taught
JOIN decisions AS d ON d.id = taught.value
LEFT JOIN rewards_in_force AS r ON r.decision_id = d.id
WHERE u.seq = :seq
GROUP BY d.conversation_id ORDER BY at DESC, d.conversation_id LIMIT :limit
"""
_WORDS = """
SELECT c.* FROM updates AS u, json_each(u.lineage) AS drawn JOIN cases AS c ON c.id = drawn.value
WHERE u.seq = :seq ORDER BY c.at DESC, c.id LIMIT :limit
"""
_FIRST_WORDS = "SELECT text FROM messages WHERE conversation_id = ? AND role = 'user' ORDER BY seq LIMIT 1"

_ASKED = "SELECT text FROM messages WHERE role = 'user' ORDER BY row_id DESC LIMIT ?"


@dataclass(frozen=True, slots=True)
class Taught:
    """A conversation that a version learned from."""

    conversation_id: str
    text: str
    """Its first words."""
    at: float
    """Of its newest reply that taught."""
    num_decisions: int
    mean_reward: float | None
    """Of these replies, as rewards stand today."""


def stats_by_article(conn: Connection) -> list[dict[str, Any]]:
    """See `Store.stats_by_article`."""
    found: dict[str, dict[str, Any]] = {}
    for row in conn.execute(_BY_ACT):
        line = dict(row)
        article = line.pop("act").partition(":")[2]
        whole = found.setdefault(article, {"article": article, "replies": 0, "up": 0, "down": 0, "by_version": []})
        for name in ("replies", "up", "down"):
            whole[name] += line[name]
        whole["by_version"].append(line)
    for whole in found.values():
        rated = [(line["rated"], line["mean_reward"]) for line in whole["by_version"] if line["rated"]]
        total = sum(num for num, _ in rated)
        whole["mean_reward"] = sum(num * mean for num, mean in rated) / total if total else None
    return list(found.values())


def lessons(conn: Connection, version: str, limit: int) -> tuple[int, list[Taught]]:
    """See `Store.lessons`."""
    update = _update_of(conn, version)
    rows = conn.execute(_TAUGHT, {"seq": update["seq"], "limit": limit}).fetchall()
    return int(update["num_decisions"]), [_taught(conn, dict(row)) for row in rows]


def words_taught(conn: Connection, version: str, limit: int) -> list[Case]:
    """See `Store.words_taught`."""
    update = _update_of(conn, version)
    return [Case(**dict(row)) for row in conn.execute(_WORDS, {"seq": update["seq"], "limit": limit})]


def _update_of(conn: Connection, version: str) -> dict[str, Any]:
    found = conn.execute(_UPDATE_OF, [version]).fetchone()
    if found is None:
        raise NotFound(f"no update published {version!r}")
    return dict(found)


def _taught(conn: Connection, row: dict[str, Any]) -> Taught:
    said = conn.execute(_FIRST_WORDS, [row["conversation_id"]]).fetchone()
    return Taught(text=said["text"] if said else "", **row)


def newest_questions(conn: Connection, limit: int) -> list[str]:
    """Newest first, each text once."""
    return list(dict.fromkeys(row["text"] for row in conn.execute(_ASKED, [limit])))
