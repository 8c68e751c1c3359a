"""SQL for what is missing among the articles: questions that went wrong.

Functions of (connection, ...). `Store` is the door to them.
"""

from __future__ import annotations

from dataclasses import dataclass

from bot.feedback.store_connection import Connection

_UNANSWERED = """
WITH thumbs AS (
    SELECT decision_id, min(value) AS value FROM signals_in_force WHERE kind = 'thumb' GROUP BY decision_id
)
SELECT r.conversation_id, r.act, r.created_at AS at,
    CASE WHEN r.act = 'handoff' THEN 'handed over' WHEN r.act LIKE 'respond:utter_out_of_scope%' THEN 'out of scope'
        ELSE 'thumb down' END AS why,
    (SELECT text FROM messages WHERE conversation_id = r.conversation_id AND role = 'user' AND seq < r.seq
        ORDER BY seq DESC LIMIT 1) AS text
FROM messages AS r LEFT JOIN thumbs ON thumbs.decision_id = r.decision_id
WHERE r.decision_id IS NOT NULL
    AND (r.act = 'handoff' OR r.act LIKE 'respond:utter_out_of_scope%' OR thumbs.value < 0)
ORDER BY r.row_id DESC LIMIT ?
"""


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A question whose reply did not help."""

    conversation_id: str
    text: str
    act: str
    why: str
    """`out of scope`, `handed over`, `thumb down`."""
    at: float


def unanswered(conn: Connection, limit: int) -> list[Unanswered]:
    """See `Store.unanswered`."""
    found = (Unanswered(**dict(row)) for row in conn.execute(_UNANSWERED, [limit]))
    return [question for question in found if question.text]
