"""Pairs of two versions' answers, and what operators found better: functions of (connection, ...)."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from bot.errors import ConflictError, NotFound
from bot.feedback.desk_records import Judged, Pair
from bot.feedback.store_connection import Connection
from bot.feedback.store_desk import Doing, insert, note_in_audit


def add_pair(conn: Connection, doing: Doing, pair: Pair) -> None:
    """Insert. The log names both versions, not which of them stands left."""
    insert(conn, "pairs", asdict(pair))
    note_in_audit(conn, doing, "add pair", pair.id, {}, {"versions": sorted((pair.left_version, pair.right_version))})


def judge_pair(conn: Connection, doing: Doing, pair_id: str, verdict: str) -> Pair:
    """Store a verdict. Raises NotFound, ConflictError when there is one."""
    found = conn.execute("SELECT * FROM pairs WHERE id = ?", [pair_id]).fetchone()
    if found is None:
        raise NotFound(f"no pair {pair_id!r}")
    before = Pair(**dict(found))
    if before.verdict:
        raise ConflictError(f"pair {pair_id!r} was judged by {before.author}")
    judged = replace(before, author=doing.actor, judged_at=doing.at, verdict=verdict)
    conn.execute(
        "UPDATE pairs SET author = :author, judged_at = :judged_at, verdict = :verdict WHERE id = :id", asdict(judged)
    )
    note_in_audit(conn, doing, "judge pair", pair_id, {}, {"verdict": verdict})
    return judged


def open_pair(conn: Connection, left: str, right: str) -> Pair | None:
    """An unjudged pair of these two versions, in either order."""
    found = conn.execute(
        "SELECT * FROM pairs WHERE verdict = '' AND (left_version = :a AND right_version = :b "
        "OR left_version = :b AND right_version = :a) ORDER BY at LIMIT 1",
        {"a": left, "b": right},
    ).fetchone()
    return Pair(**dict(found)) if found else None


def drop_pair(conn: Connection, doing: Doing, pair_id: str) -> None:
    """Forget an unjudged pair of which something was erased."""
    if conn.execute("DELETE FROM pairs WHERE id = ? AND verdict = ''", [pair_id]).rowcount:
        note_in_audit(conn, doing, "drop pair", pair_id)


def paired_decisions(conn: Connection, left: str, right: str) -> set[str]:
    """Decisions for which these two versions were put beside each other already."""
    found = conn.execute(
        "SELECT decision_id FROM pairs WHERE left_version IN (:a, :b) AND right_version IN (:a, :b)",
        {"a": left, "b": right},
    )
    return {row[0] for row in found}


def judged(conn: Connection, since: float, limit: int) -> list[Judged]:
    """Those since then (epoch s), newest first; of questions whose person lets them be learned from."""
    sql = """
    SELECT p.decision_id, CASE p.verdict WHEN 'left' THEN p.left_act ELSE p.right_act END AS better,
        CASE p.verdict WHEN 'left' THEN p.right_act ELSE p.left_act END AS worse, p.author
    FROM pairs AS p JOIN decisions AS d ON d.id = p.decision_id
    JOIN conversations AS c ON c.id = d.conversation_id AND c.learn_ok = 1
    WHERE p.verdict IN ('left', 'right') AND p.judged_at >= ? ORDER BY p.judged_at DESC, p.id LIMIT ?
    """
    return [Judged(**dict(row)) for row in conn.execute(sql, [since, limit])]


def verdicts(conn: Connection) -> list[dict[str, Any]]:
    """[{a, b, a_wins, b_wins, both, neither}] by pair of versions, `a` the older one."""
    sql = """
    SELECT min(left_version, right_version) AS a, max(left_version, right_version) AS b,
        sum(verdict = 'left' AND left_version < right_version OR verdict = 'right' AND right_version < left_version) AS a_wins,
        sum(verdict = 'left' AND left_version > right_version OR verdict = 'right' AND right_version > left_version) AS b_wins,
        sum(verdict = 'both') AS both, sum(verdict = 'neither') AS neither
    FROM pairs WHERE verdict <> '' GROUP BY a, b ORDER BY b DESC, a DESC LIMIT 100
    """
    return [dict(row) for row in conn.execute(sql)]
