"""Forgetting one conversation: every row with its words, and a note of what they may have taught.

Text, choices, signals and rewards go in one transaction; deleted bytes are overwritten (`secure_delete`, also in the
full-text index) and the log is folded into the file, so that the words are in neither. What stays is an `Erasure`: no
word, no person, the numbers and the versions whose lineage holds one of the decisions, or of the cases that operators made
of them (of whose words a causal part may have learned). Those versions keep serving;
later updates draw on what is left.
"""

from __future__ import annotations

import json
from pathlib import Path

from bot.feedback import store_reads as reads
from bot.feedback.store_connection import Connection, open_writer, store_errors
from bot.feedback.store_records import Erasure, tracker_name

_VERSIONS = """
SELECT DISTINCT u.version FROM updates AS u, json_each(u.lineage) AS drawn
WHERE u.outcome = 'published' AND drawn.value IN (
    SELECT id FROM decisions WHERE conversation_id = :id UNION ALL SELECT id FROM cases WHERE conversation_id = :id)
ORDER BY u.version
"""
_DELETE = {
    "rewards": "DELETE FROM rewards WHERE conversation_id = ?",
    "signals": "DELETE FROM signals WHERE conversation_id = ?",
    "messages": "DELETE FROM messages WHERE conversation_id = ?",
    "decisions": "DELETE FROM decisions WHERE conversation_id = ?",
}
"""Rows that point before rows that are pointed at."""


def erase_conversation(conn: Connection, conversation_id: str, author: str, at: float) -> Erasure:
    """Delete every row of the conversation and note that it was done. Raises NotFound."""
    reads.conversation(conn, conversation_id)
    _erase_lessons(conn, conversation_id, author, at)
    versions = tuple(row["version"] for row in conn.execute(_VERSIONS, {"id": conversation_id}))
    conn.execute("INSERT INTO erasing (conversation_id) VALUES (?)", [conversation_id])
    gone = {table: conn.execute(sql, [conversation_id]).rowcount for table, sql in _DELETE.items()}
    conn.execute("DELETE FROM erasing")
    conn.execute("DELETE FROM status WHERE name = ?", [tracker_name(conversation_id)])
    conn.execute("DELETE FROM conversations WHERE id = ?", [conversation_id])
    erasure = Erasure(at, author, conversation_id, gone["messages"], gone["decisions"], gone["signals"], versions)
    conn.execute(
        "INSERT INTO erasures (at, author, conversation_id, num_messages, num_decisions, num_signals, versions) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        [at, author, conversation_id, gone["messages"], gone["decisions"], gone["signals"], json.dumps(versions)],
    )
    return erasure


def _erase_lessons(conn: Connection, conversation_id: str, author: str, at: float) -> None:
    """What operators made of it repeats its question: decisions of their own, in conversations of their own."""
    lessons = conn.execute(
        "SELECT d.conversation_id FROM cases AS c JOIN decisions AS d ON d.id = c.lesson_id WHERE c.conversation_id = ?",
        [conversation_id],
    ).fetchall()
    for lesson in lessons:
        erase_conversation(conn, lesson["conversation_id"], author, at)


def fold_log(path: Path) -> None:
    """Bring the write-ahead log into the file and empty it: erased words must not stay readable there.

    Waits a moment for readers; where one does not end, the next checkpoint does it.
    """
    with store_errors(f"cannot fold the log of {path}"):
        conn = open_writer(path)
        try:
            conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            conn.close()
