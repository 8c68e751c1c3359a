"""Reads of the inbox: functions of (connection, ...). A page walks an index from its cursor on and stops when it is full.

A list is ordered by time and cut by (time, id). A search walks the messages that match, newest first, and is cut by
message; it looks at MAX_LOOKED_AT of them in one go, so that a frequent word under a rare filter costs no more than that.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from bot.conversation import Standing
from bot.errors import NotFound
from bot.feedback.desk_records import NOBODY, InboxPage, InboxQuery, InboxRow, Piece
from bot.feedback.schema_desk import WORDLESS
from bot.feedback.store_connection import Connection, Row
from bot.feedback.store_reports import search_expression

MAX_LOOKED_AT = 20_000
"""Matching messages that one page of a search looks at."""
OPEN_MARK, CLOSE_MARK = "\ue000", "\ue001"
"""Around a word that was found; of Unicode's private use area, and nothing but a highlight hangs on them."""
_SNIPPET_TOKENS = 24
_NEWEST = 2**62
"""Above every row id."""
_OUTCOMES = {1: "solved", 0: "not_solved", -1: ""}

_HAS_WORDS = "(i.status <> 'bot' OR i.num_messages > 1 OR i.last_role = 'user')"
"""What is not WORDLESS: somebody wrote, or asked for a person. The rest is nothing to work on."""
_VIEWS = {
    "bot": f"i.status = 'bot' AND i.snoozed_until <= :now AND {_HAS_WORDS}",
    "waiting": "i.status = 'waiting' AND i.snoozed_until <= :now",
    "person": "i.status = 'person' AND i.snoozed_until <= :now",
    "resolved": "i.status = 'resolved' AND i.snoozed_until <= :now",
    "snoozed": "i.snoozed_until > 0 AND i.snoozed_until > :now",
    "open": f"i.status <> 'resolved' AND i.snoozed_until <= :now AND {_HAS_WORDS}",
}
# Left to itself SQLite looks at every conversation with the bot.
_NUM_WORDLESS = f"""
SELECT count(*) FROM inbox INDEXED BY inbox_wordless WHERE {WORDLESS} AND snoozed_until <= ?
"""  # noqa: S608 - our own words
_FACET = (
    "EXISTS (SELECT 1 FROM inbox_facets WHERE conversation_id = i.conversation_id AND kind = '{0}' AND value = :{0})"
)

_LIST = """
SELECT i.* FROM inbox AS i WHERE {conditions}
ORDER BY i.updated_at DESC, i.conversation_id LIMIT :limit
"""
_WAITING_LIST = """
SELECT i.* FROM inbox AS i INDEXED BY inbox_waiting WHERE {conditions} ORDER BY i.waiting_since, i.conversation_id LIMIT :limit
"""
_AFTER = "(i.updated_at < :at OR (i.updated_at = :at AND i.conversation_id > :after))"
_AFTER_WAITING = "(i.waiting_since > :at OR (i.waiting_since = :at AND i.conversation_id > :after))"

_SEARCH = """
SELECT m.row_id, m.created_at AS found_at, i.*, CASE WHEN {conditions} THEN {snippet} END AS found
FROM messages_fts AS f JOIN messages AS m ON m.row_id = f.rowid JOIN inbox AS i ON i.conversation_id = m.conversation_id
WHERE f.messages_fts MATCH :match AND f.rowid < :below ORDER BY f.rowid DESC
"""
_SNIPPET = f"snippet(messages_fts, 0, '{OPEN_MARK}', '{CLOSE_MARK}', '…', {_SNIPPET_TOKENS})"
# One walk over the newer matches: to ask for each conversation alone would decode the word's list every time.
_FOUND_BEFORE = """
SELECT DISTINCT m.conversation_id FROM messages_fts AS f JOIN messages AS m ON m.row_id = f.rowid
WHERE f.messages_fts MATCH :match AND f.rowid >= :below AND m.conversation_id IN (SELECT value FROM json_each(:ids))
"""


def inbox(conn: Connection, wanted: InboxQuery, now: float) -> InboxPage:
    """One page. Raises ValueError for a cursor that is none of ours."""
    bound, conditions = _filters(wanted, now)
    if wanted.text.strip():
        return _searched(conn, wanted, bound, conditions, now)
    by_waiting = wanted.order == "waiting"
    if by_waiting:
        conditions.append("i.status = 'waiting'")
    if wanted.cursor:
        at, after = json.loads(wanted.cursor)
        bound |= {"at": float(at), "after": str(after)}
        conditions.append(_AFTER_WAITING if by_waiting else _AFTER)
    sql = (_WAITING_LIST if by_waiting else _LIST).format(conditions=" AND ".join(conditions) or "1")
    found = conn.execute(sql, bound | {"limit": wanted.limit}).fetchall()
    rows = _lines(conn, found, now)
    if len(rows) < wanted.limit:
        return InboxPage(rows)
    place = rows[-1].waiting_since if by_waiting else rows[-1].updated_at
    return InboxPage(rows, json.dumps([place, rows[-1].id]))


def _filters(wanted: InboxQuery, now: float) -> tuple[dict[str, Any], list[str]]:
    """What is bound, and the conditions. Literals where a partial index hangs on them."""
    bound = {name: getattr(wanted, name) for name in ("language", "csat", "since", "until", "assignee")}
    bound |= {kind: getattr(wanted, kind) for kind in ("act", "article", "version", "tag")} | {"now": now}
    conditions = {
        wanted.assignee == NOBODY: "i.assignee = ''",
        wanted.assignee not in ("", NOBODY): "i.assignee <> '' AND i.assignee = :assignee",
    }
    said = [condition for holds, condition in conditions.items() if holds]
    said += [_VIEWS[wanted.view]] if wanted.view else []
    said += [f"i.{wanted.thumb} > 0"] if wanted.thumb in ("up", "down") else []
    said += ["i.csat > 0 AND i.csat = :csat"] if wanted.csat else []
    said += ["i.outcome >= 0 AND i.outcome = " + str(int(wanted.outcome == "solved"))] if wanted.outcome else []
    said += ["i.flagged = 1"] if wanted.flagged else []
    said += ["i.language <> '' AND i.language = :language"] if wanted.language else []
    said += [_FACET.format(kind) for kind in ("act", "article", "version", "tag") if getattr(wanted, kind)]
    said += ["i.updated_at >= :since"] if wanted.since else []
    said += ["i.updated_at < :until"] if wanted.until else []
    return bound, said


# --- searching --------------------------------------------------------------------------------------------------------
def _searched(
    conn: Connection, wanted: InboxQuery, bound: dict[str, Any], conditions: Sequence[str], now: float
) -> InboxPage:
    """Conversations by their newest message that matches; a page leaves out those that an earlier one showed."""
    below = int(json.loads(wanted.cursor)) if wanted.cursor else _NEWEST
    bound |= {"match": search_expression(wanted.text), "below": below}
    sql = _SEARCH.format(conditions=" AND ".join(conditions) or "1", snippet=_SNIPPET)
    found: dict[str, Row] = {}
    last, num_looked_at = None, 0
    for row in conn.execute(sql, bound):
        last, num_looked_at = row, num_looked_at + 1
        if row["found"] is not None:
            found.setdefault(row["conversation_id"], row)
        if len(found) == wanted.limit or num_looked_at == MAX_LOOKED_AT:
            break
    is_full = len(found) == wanted.limit
    for name in _found_before(conn, bound, list(found)):
        del found[name]
    snippets = {name: tuple(_pieces(row["found"])) for name, row in found.items()}
    rows = _lines(conn, list(found.values()), now, snippets)
    if last is None or not (is_full or num_looked_at == MAX_LOOKED_AT):
        return InboxPage(rows)
    return InboxPage(rows, json.dumps(last["row_id"]), 0.0 if is_full else last["found_at"])


def _found_before(conn: Connection, bound: dict[str, Any], ids: list[str]) -> list[str]:
    """Those that an earlier page showed for a newer message."""
    if bound["below"] == _NEWEST:
        return []
    return [row[0] for row in conn.execute(_FOUND_BEFORE, bound | {"ids": json.dumps(ids)})]


def _pieces(text: str) -> Iterator[Piece]:
    """The text between the marks, and what is in them; none is empty."""
    before, *marked = text.split(OPEN_MARK)
    parts = [Piece(before, hit=False)]
    for part in marked:
        word, _, after = part.partition(CLOSE_MARK)
        parts += [Piece(word, hit=True), Piece(after, hit=False)]
    yield from (part for part in parts if part.text)


# --- lines ------------------------------------------------------------------------------------------------------------
def line(conn: Connection, conversation_id: str, now: float) -> InboxRow:
    """One conversation's. Raises NotFound."""
    found = conn.execute("SELECT * FROM inbox WHERE conversation_id = ?", [conversation_id]).fetchall()
    if not found:
        raise NotFound(f"no conversation {conversation_id!r}")
    return _lines(conn, found, now)[0]


def _lines(
    conn: Connection,
    found: Sequence[Row],
    now: float,
    snippets: dict[str, tuple[Piece, ...]] | None = None,
) -> tuple[InboxRow, ...]:
    facets = _facets(conn, [row["conversation_id"] for row in found])
    return tuple(_line(row, now, facets, (snippets or {}).get(row["conversation_id"], ())) for row in found)


def _line(row: Row, now: float, facets: dict[tuple[str, str], list[str]], snippet: tuple[Piece, ...]) -> InboxRow:
    conversation_id = row["conversation_id"]
    return InboxRow(
        id=conversation_id,
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        state="snoozed" if row["snoozed_until"] > now else row["status"],
        status=row["status"],
        assignee=row["assignee"],
        waiting_since=row["waiting_since"],
        snoozed_until=row["snoozed_until"],
        flagged=bool(row["flagged"]),
        language=row["language"],
        last_text=row["last_text"],
        last_role=row["last_role"],
        num_messages=row["num_messages"],
        up=row["up"],
        down=row["down"],
        csat=row["csat"],
        outcome=_OUTCOMES[row["outcome"]],
        revision=row["revision"],
        versions=tuple(facets.get((conversation_id, "version"), ())),
        tags=tuple(facets.get((conversation_id, "tag"), ())),
        snippet=snippet,
    )


def _facets(conn: Connection, ids: Sequence[str]) -> dict[tuple[str, str], list[str]]:
    """(conversation, kind) -> values, of versions and tags."""
    sql = (
        "SELECT * FROM inbox_facets WHERE kind IN ('version', 'tag') AND conversation_id IN "
        "(SELECT value FROM json_each(?)) ORDER BY value"
    )
    found: dict[tuple[str, str], list[str]] = {}
    for conversation_id, kind, value in conn.execute(sql, [json.dumps(ids)]):
        found.setdefault((conversation_id, kind), []).append(value)
    return found


# --- beside the list --------------------------------------------------------------------------------------------------
def counts(conn: Connection, who: str, now: float) -> dict[str, int]:
    """Conversations by state, and `mine`: claimed by `who` and not resolved. Of those with the bot, the ones with words."""
    total = dict(conn.execute("SELECT status, count(*) FROM inbox GROUP BY status").fetchall())
    # Grouped by SQLite, it would walk the whole inbox by status for the few that sleep.
    sleeping = conn.execute("SELECT status FROM inbox WHERE snoozed_until > 0 AND snoozed_until > ?", [now])
    asleep = Counter(row[0] for row in sleeping)
    wordless = conn.execute(_NUM_WORDLESS, [now]).fetchone()[0]
    mine = conn.execute(
        "SELECT count(*) FROM inbox WHERE assignee <> '' AND assignee = ? AND status <> 'resolved'", [who]
    ).fetchone()[0]
    statuses = ("bot", "waiting", "person", "resolved")
    awake = {status: int(total.get(status, 0)) - asleep[status] for status in statuses}
    awake["bot"] -= int(wordless)
    return awake | {"snoozed": asleep.total(), "mine": int(mine)}


def values(conn: Connection, kind: str, limit: int = 200) -> list[str]:
    """Values of a facet (`act`, `article`, `version`, `tag`), for choosing a filter: each is found by one step."""
    sql = """
    WITH RECURSIVE each (value) AS (
        SELECT min(value) FROM inbox_facets WHERE kind = :kind
        UNION ALL SELECT (SELECT min(value) FROM inbox_facets WHERE kind = :kind AND value > each.value)
        FROM each WHERE each.value IS NOT NULL)
    SELECT value FROM each WHERE value IS NOT NULL LIMIT :limit
    """
    return [row[0] for row in conn.execute(sql, {"kind": kind, "limit": limit})]


def standing(conn: Connection, conversation_id: str) -> Standing:
    """Who speaks, and the place in the queue."""
    row = conn.execute(
        "SELECT status, assignee, waiting_since FROM inbox WHERE conversation_id = ?", [conversation_id]
    ).fetchone()
    if row is None or row["status"] not in ("person", "waiting"):
        return Standing()
    if row["status"] == "person":
        return Standing(operator=row["assignee"])
    before = conn.execute(
        "SELECT count(*) FROM inbox WHERE status = 'waiting' AND (waiting_since, conversation_id) <= (?, ?)",
        [row["waiting_since"], conversation_id],
    ).fetchone()
    return Standing(position=before[0])


def waiting(conn: Connection) -> list[str]:
    """Conversations in which somebody waits for a person, the longest first."""
    sql = "SELECT conversation_id FROM inbox WHERE status = 'waiting' ORDER BY waiting_since, conversation_id"
    return [row[0] for row in conn.execute(sql)]


def changed_since(conn: Connection, revision: int, limit: int = 500) -> tuple[list[str], int]:
    """Conversations that changed after `revision`, and the revision reached."""
    found = conn.execute(
        "SELECT conversation_id, revision FROM inbox WHERE revision > ? ORDER BY revision LIMIT ?", [revision, limit]
    ).fetchall()
    return [row[0] for row in found], found[-1][1] if found else revision


def last_revision(conn: Connection) -> int:
    """0 before the first conversation."""
    return int(conn.execute("SELECT coalesce(max(revision), 0) FROM inbox").fetchone()[0])
