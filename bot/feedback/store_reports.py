"""Reads made for people: the operator's list and search, statistics for the studio page. They may scan."""

from __future__ import annotations

from typing import Any

from bot.feedback import store_rows as rows
from bot.feedback.store_connection import Connection, Row
from bot.feedback.store_records import ConversationFilter, ConversationRow, Tally

_LIST = """
SELECT c.*,
    (SELECT text FROM messages WHERE conversation_id = c.id ORDER BY seq DESC LIMIT 1) AS last_text,
    (SELECT count(*) FROM messages WHERE conversation_id = c.id) AS num_messages,
    (SELECT count(*) FROM signals_in_force WHERE conversation_id = c.id AND kind = 'thumb' AND value > 0) AS up,
    (SELECT count(*) FROM signals_in_force WHERE conversation_id = c.id AND kind = 'thumb' AND value < 0) AS down
FROM conversations AS c
WHERE {conditions}
ORDER BY c.created_at DESC, c.id LIMIT :limit
"""

_CONDITIONS = {
    "status": "c.status = :status",
    "version": "EXISTS (SELECT 1 FROM decisions WHERE version = :version AND conversation_id = c.id)",
    "thumb": """EXISTS (SELECT 1 FROM signals_in_force
        WHERE conversation_id = c.id AND kind = 'thumb' AND value = :thumb)""",
    "before": "c.created_at < :before",
    "match": """c.id IN (SELECT conversation_id FROM messages WHERE row_id IN (
        SELECT rowid FROM messages_fts WHERE messages_fts MATCH :match))""",
}


def list_conversations(conn: Connection, wanted: ConversationFilter) -> list[ConversationRow]:
    """Newest first."""
    bound: dict[str, Any] = {name: getattr(wanted, name) for name in ("status", "version", "thumb", "before")}
    bound["match"] = search_expression(wanted.text)
    conditions = " AND ".join(sql for name, sql in _CONDITIONS.items() if bound[name]) or "1"
    found = conn.execute(_LIST.format(conditions=conditions), bound | {"limit": wanted.limit}).fetchall()
    return [_conversation_row(conn, row) for row in found]


def _conversation_row(conn: Connection, row: Row) -> ConversationRow:
    sql = "SELECT DISTINCT version FROM decisions WHERE conversation_id = ? ORDER BY version"
    versions = tuple(found["version"] for found in conn.execute(sql, [row["id"]]))
    return ConversationRow(
        conversation=rows.conversation_from(row),
        last_text=row["last_text"] or "",
        num_messages=row["num_messages"],
        thumbs_up=row["up"],
        thumbs_down=row["down"],
        versions=versions,
    )


def search_expression(text: str) -> str:
    """An FTS5 expression: every word must occur, the last may be a prefix; what a person types is never an operator."""
    words = ['"' + word.replace('"', '""') + '"' for word in text.replace("\0", " ").split()]
    return " ".join(words) + "*" if words else ""


_BY_VERSION = """
WITH thumbs AS (
    SELECT decision_id, sum(value > 0) AS up, sum(value < 0) AS down
    FROM signals_in_force WHERE kind = 'thumb' GROUP BY decision_id
), outcomes AS (
    SELECT spoke.version, avg(s.value) AS success
    FROM signals_in_force AS s
    JOIN (SELECT DISTINCT version, conversation_id FROM decisions) AS spoke USING (conversation_id)
    WHERE s.kind = 'outcome' GROUP BY spoke.version
)
SELECT d.version, count(*) AS replies, coalesce(sum(thumbs.up), 0) AS up, coalesce(sum(thumbs.down), 0) AS down,
    avg(r.value) AS mean_reward, count(r.value) AS rated, outcomes.success
FROM (SELECT * FROM decisions WHERE person_id NOT LIKE 'operator:%') AS d
LEFT JOIN thumbs ON thumbs.decision_id = d.id
LEFT JOIN rewards_in_force AS r ON r.decision_id = d.id AND r.scope = 'reply'
LEFT JOIN outcomes ON outcomes.version = d.version
GROUP BY d.version ORDER BY d.version
"""


def stats_by_version(conn: Connection) -> list[dict[str, Any]]:
    """See `Store.stats_by_version`."""
    return [dict(row) for row in conn.execute(_BY_VERSION)]


_TALLIES = """
WITH spoke AS (
    SELECT version, conversation_id, count(*) AS replies FROM decisions
    WHERE version IN (:one, :other) AND created_at >= :since AND person_id NOT LIKE 'operator:%'
    GROUP BY version, conversation_id
), thumbs AS (
    SELECT d.version, d.conversation_id, avg(s.value > 0) AS up
    FROM decisions AS d JOIN signals_in_force AS s ON s.decision_id = d.id AND s.kind = 'thumb' AND s.value <> 0
    WHERE d.version IN (:one, :other) AND d.created_at >= :since AND d.person_id NOT LIKE 'operator:%'
    GROUP BY d.version, d.conversation_id
), outcomes AS (
    SELECT conversation_id, avg(value) AS solved FROM signals_in_force WHERE kind = 'outcome' GROUP BY conversation_id
)
SELECT version, count(*) AS conversations, sum(replies) AS replies,
    count(up) AS rated, coalesce(sum(up), 0.0) AS up, coalesce(sum(up * up), 0.0) AS up_squares,
    count(solved) AS outcomes, coalesce(sum(solved), 0.0) AS solved
FROM spoke LEFT JOIN thumbs USING (version, conversation_id) LEFT JOIN outcomes USING (conversation_id)
GROUP BY version
"""


def tallies(conn: Connection, one: str, other: str, since: float) -> dict[str, Tally]:
    """See `Store.tallies`."""
    found = conn.execute(_TALLIES, {"one": one, "other": other, "since": since}).fetchall()
    counted = {row["version"]: Tally(**dict(row)) for row in found}
    return {version: counted.get(version, Tally(version)) for version in (one, other)}


_OVER_TIME = """
SELECT min(:buckets - 1, cast((d.created_at - :start) / :width AS INTEGER)) AS bucket, count(*) AS replies,
    coalesce(sum(thumbs.up), 0) AS up, coalesce(sum(thumbs.down), 0) AS down, avg(r.value) AS reward
FROM (SELECT * FROM decisions WHERE person_id NOT LIKE 'operator:%') AS d
LEFT JOIN (
    SELECT decision_id, sum(value > 0) AS up, sum(value < 0) AS down
    FROM signals_in_force WHERE kind = 'thumb' GROUP BY decision_id
) AS thumbs ON thumbs.decision_id = d.id
LEFT JOIN rewards_in_force AS r ON r.decision_id = d.id AND r.scope = 'reply'
GROUP BY bucket
"""


def stats_over_time(conn: Connection, buckets: int) -> list[dict[str, Any]]:
    """See `Store.stats_over_time`."""
    start, end = conn.execute("SELECT min(created_at), max(created_at) FROM decisions").fetchone()
    if start is None:
        return []
    width_s = (end - start) / buckets or 1.0
    bound = {"buckets": buckets, "start": start, "width": width_s}
    filled = {row["bucket"]: dict(row) for row in conn.execute(_OVER_TIME, bound)}
    empty = {"replies": 0, "up": 0, "down": 0, "reward": None}
    return [{"at": start + i * width_s} | _without_bucket(filled.get(i, empty)) for i in range(buckets)]


def _without_bucket(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "bucket"}


_COUNT = "SELECT count(*) FROM {table}"
_COUNTED = ("conversations", "messages", "decisions", "act_texts", "signals", "rewards", "updates")


def counts(conn: Connection) -> dict[str, int]:
    """Rows per table."""
    return {table: int(conn.execute(_COUNT.format(table=table)).fetchone()[0]) for table in _COUNTED}
