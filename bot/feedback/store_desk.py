"""Writes of customer service: functions of (connection, ...), run on the writer thread inside a transaction.

Every one that a person asks for takes its `Doing` and leaves an audit row in the same transaction, so nothing happens
without a trace and no trace is left of what did not happen. The audit log holds ids and settings, never words.

Who may speak (DESIGN: operator and bot never speak at once) is decided in `check_turn` alone: SQLite has one writer at a
time, so what it finds still holds when the message is stored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from bot.conversation import Message, is_operator
from bot.errors import ConflictError, NotAllowed, NotFound, TurnTaken
from bot.feedback import store_reads as reads
from bot.feedback import store_rows as rows
from bot.feedback.desk_records import AuditRow, Case, CaseUse, Draft, Note
from bot.feedback.store_connection import Connection, Row

_NEXT = "(SELECT max(revision) + 1 FROM inbox)"
_SET = {
    name: f"UPDATE inbox SET {name} = :value, revision = {_NEXT} WHERE conversation_id = :id"  # noqa: S608 - our names
    for name in ("assignee", "snoozed_until", "flagged", "language")
}


@dataclass(frozen=True, slots=True)
class Doing:
    """Who does something, and when (epoch s)."""

    actor: str
    """`operator:NAME`."""
    at: float

    @property
    def name(self) -> str:
        """The account's name."""
        return self.actor.partition(":")[2]


# --- the audit log ----------------------------------------------------------------------------------------------------
def note_in_audit(
    conn: Connection,
    doing: Doing,
    action: str,
    target: str,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> int:
    """Append; returns its seq."""
    last = conn.execute("SELECT chain FROM audit ORDER BY seq DESC LIMIT 1").fetchone()
    row = AuditRow(doing.at, doing.actor, action, target, before or {}, after or {})
    values = _audit_values(row)
    values["chain"] = chained(last["chain"] if last else "", row)
    return (
        conn.execute(
            "INSERT INTO audit (at, actor, action, target, before, after, chain) "
            "VALUES (:at, :actor, :action, :target, :before, :after, :chain)",
            values,
        ).lastrowid
        or 0
    )


def _audit_values(row: AuditRow) -> dict[str, Any]:
    lists = {"before": rows.to_json("audit", dict(row.before)), "after": rows.to_json("audit", dict(row.after))}
    return {"at": row.at, "actor": row.actor, "action": row.action, "target": row.target} | lists


def chained(before: str, row: AuditRow) -> str:
    """The chain after `row`: whoever changes, drops or slips in a row breaks every chain after it."""
    said = json.dumps([before, *_audit_values(row).values()])
    return hashlib.sha256(said.encode()).hexdigest()


def audit_rows(conn: Connection, before_seq: int, limit: int, target: str) -> list[AuditRow]:
    """Newest first; those below `before_seq` (0: from the newest), about `target` (empty: about anything)."""
    found = conn.execute(
        "SELECT * FROM audit WHERE (:before = 0 OR seq < :before) AND (:target = '' OR target = :target) "
        "ORDER BY seq DESC LIMIT :limit",
        {"before": before_seq, "target": target, "limit": limit},
    )
    return [_audit_from(row) for row in found]


def first_broken_audit_row(conn: Connection) -> int:
    """The seq of the first row that does not follow from those before it; 0: the whole log holds."""
    chain = ""
    for found in conn.execute("SELECT * FROM audit ORDER BY seq"):
        row = _audit_from(found)
        chain = chained(chain, row)
        if row.chain != chain:
            return row.seq
    return 0


def _audit_from(row: Row) -> AuditRow:
    values = {name: row[name] for name in ("at", "actor", "action", "target", "seq", "chain")}
    return AuditRow(**values, before=json.loads(row["before"]), after=json.loads(row["after"]))


# --- one conversation -------------------------------------------------------------------------------------------------
def _inbox_row(conn: Connection, conversation_id: str) -> Row:
    found: Row | None = conn.execute("SELECT * FROM inbox WHERE conversation_id = ?", [conversation_id]).fetchone()
    if found is None:
        raise NotFound(f"no conversation {conversation_id!r}")
    return found


def _change(conn: Connection, doing: Doing, action: str, conversation_id: str, name: str, value: Any) -> None:
    """Set one column and note it, unless it is so already."""
    before = _inbox_row(conn, conversation_id)[name]
    if before != value:
        conn.execute(_SET[name], {"value": value, "id": conversation_id})
        note_in_audit(conn, doing, action, conversation_id, {name: before}, {name: value})


def claim(conn: Connection, doing: Doing, conversation_id: str, force: bool) -> None:
    """Make it the actor's. Raises ConflictError when it is somebody else's and `force` was not said, NotAllowed while
    they speak: the customer is told who does, so that changes by `take_over` alone."""
    row = _inbox_row(conn, conversation_id)
    if row["status"] == "person" and row["assignee"] != doing.name:
        raise NotAllowed(f"claim: {row['assignee']} speaks here; take it over instead")
    _claim(conn, doing, conversation_id, force)


def _claim(conn: Connection, doing: Doing, conversation_id: str, force: bool) -> None:
    holder = _inbox_row(conn, conversation_id)["assignee"]
    if holder not in ("", doing.name) and not force:
        raise ConflictError(f"claimed by {holder}: take it over from them, or choose another")
    _change(conn, doing, "claim", conversation_id, "assignee", doing.name)


def release(conn: Connection, doing: Doing, conversation_id: str) -> None:
    """Nobody's again. Raises NotAllowed while a person speaks: hand back or resolve first."""
    if reads.conversation(conn, conversation_id).status == "person":
        raise NotAllowed("release: expected a conversation that the bot answers; hand it back or resolve it first")
    _change(conn, doing, "release", conversation_id, "assignee", "")


def snooze(conn: Connection, doing: Doing, conversation_id: str, until: float) -> None:
    """Out of sight until then (epoch s; 0: back at once), or until its person writes."""
    _change(conn, doing, "snooze", conversation_id, "snoozed_until", until)


def flag(conn: Connection, doing: Doing, conversation_id: str, flagged: bool) -> None:
    """Marked for others to look at, or not."""
    _change(conn, doing, "flag", conversation_id, "flagged", int(flagged))


def note_language(conn: Connection, conversation_id: str, language: str) -> None:
    """What the newest message is written in."""
    conn.execute(_SET["language"], {"value": language, "id": conversation_id})


def tag(conn: Connection, doing: Doing, conversation_id: str, value: str, present: bool) -> None:
    """Put a tag on, or take it off."""
    _inbox_row(conn, conversation_id)
    key = {"id": conversation_id, "value": value}
    if present:
        sql = "INSERT OR IGNORE INTO inbox_facets VALUES (:id, 'tag', :value)"
    else:
        sql = "DELETE FROM inbox_facets WHERE conversation_id = :id AND kind = 'tag' AND value = :value"
    if conn.execute(sql, key).rowcount:
        conn.execute(f"UPDATE inbox SET revision = {_NEXT} WHERE conversation_id = :id", key)  # noqa: S608 - ours
        note_in_audit(conn, doing, "tag" if present else "untag", conversation_id, {}, {"tag": value})


def add_note(conn: Connection, doing: Doing, conversation_id: str, text: str) -> Note:
    """Append a private note."""
    _inbox_row(conn, conversation_id)
    row = {"conversation_id": conversation_id, "at": doing.at, "author": doing.actor, "text": text}
    cursor = conn.execute(
        "INSERT INTO notes (conversation_id, at, author, text) VALUES (:conversation_id, :at, :author, :text)", row
    )
    conn.execute(f"UPDATE inbox SET revision = {_NEXT} WHERE conversation_id = ?", [conversation_id])  # noqa: S608 - ours
    note_in_audit(conn, doing, "note", conversation_id, {}, {"note": cursor.lastrowid})
    return Note(conversation_id, doing.at, doing.actor, text, cursor.lastrowid or 0)


def notes(conn: Connection, conversation_id: str) -> list[Note]:
    """Oldest first."""
    found = conn.execute("SELECT * FROM notes WHERE conversation_id = ? ORDER BY seq", [conversation_id])
    return [Note(**dict(row)) for row in found]


# --- who speaks -------------------------------------------------------------------------------------------------------
def check_turn(conn: Connection, message: Message) -> None:
    """One voice at a time. Raises TurnTaken for a bot's message while a person speaks, and for an operator's unless they
    are the one who took over."""
    status = reads.conversation(conn, message.conversation_id).status
    if message.role == "bot" and status == "person":
        raise TurnTaken(f"a person speaks in {message.conversation_id}: the bot is silent")
    if message.role == "operator" and not _may_speak(conn, message, status):
        raise TurnTaken(f"expected an operator who has taken over {message.conversation_id}, got {message.author!r}")


def _may_speak(conn: Connection, message: Message, status: str) -> bool:
    name = message.author.partition(":")[2]
    return status == "person" and is_operator(message.author) and name == _assignee(conn, message.conversation_id)


def _assignee(conn: Connection, conversation_id: str) -> str:
    return str(_inbox_row(conn, conversation_id)["assignee"])


def take_over(conn: Connection, doing: Doing, conversation_id: str, force: bool) -> bool:
    """From now on the actor speaks and the bot is silent; False: they did already. Raises ConflictError when somebody
    else speaks (or claimed it) and `force` was not said."""
    before = _inbox_row(conn, conversation_id)
    _claim(conn, doing, conversation_id, force)
    if before["status"] == "person" and before["assignee"] == doing.name:
        return False
    _set_status(conn, doing, "take over", conversation_id, "person")
    return True


def end_turn(conn: Connection, doing: Doing, conversation_id: str, status: str) -> bool:
    """Hand back to the bot (`bot`) or close (`resolved`); False: it was closed already. Raises ConflictError while somebody
    else speaks, and for a hand-back where no person does: whoever waits keeps their place."""
    before = _inbox_row(conn, conversation_id)
    if before["status"] == "person" and before["assignee"] not in ("", doing.name):
        raise ConflictError(f"{before['assignee']} speaks here: take it over from them first")
    if status == "bot" and before["status"] != "person":
        raise ConflictError("hand back: you have not taken this conversation over, so there is nothing to hand back")
    if before["status"] == status:
        return False
    _set_status(conn, doing, "hand back" if status == "bot" else "resolve", conversation_id, status)
    if status == "bot":
        _change(conn, doing, "release", conversation_id, "assignee", "")
    return True


def _set_status(conn: Connection, doing: Doing, action: str, conversation_id: str, status: str) -> None:
    before = reads.conversation(conn, conversation_id).status
    conn.execute("UPDATE conversations SET status = ? WHERE id = ?", [status, conversation_id])
    if before != status:
        note_in_audit(conn, doing, action, conversation_id, {"status": before}, {"status": status})


# --- corrections ------------------------------------------------------------------------------------------------------
_CASE_COLUMNS = tuple(name for name in Case.__slots__ if name not in ("num_uses", "taught", "words_taught"))
_CASES = """
SELECT c.*, (SELECT count(*) FROM case_uses WHERE case_id = c.id) AS num_uses FROM cases AS c
"""
_IN_FORCE = """
(c.removed_at = 0 AND EXISTS (SELECT 1 FROM conversations AS own WHERE own.id = c.conversation_id AND own.learn_ok = 1))
"""


def add_case(conn: Connection, doing: Doing, case: Case) -> None:
    """Insert."""
    insert(conn, "cases", {name: getattr(case, name) for name in _CASE_COLUMNS})
    after = {"case": case.id, "act": case.act, "own_words": bool(case.text)}
    note_in_audit(conn, doing, "correct", case.decision_id or case.conversation_id, {"act": case.draft_act}, after)
    conn.execute(f"UPDATE inbox SET revision = {_NEXT} WHERE conversation_id = ?", [case.conversation_id])  # noqa: S608


def remove_case(conn: Connection, doing: Doing, case_id: str) -> Case:
    """Stop using it. Raises NotFound."""
    case = one_case(conn, case_id)
    if case.removed_at:
        return case
    conn.execute("UPDATE cases SET removed_at = ?, removed_by = ? WHERE id = ?", [doing.at, doing.actor, case_id])
    note_in_audit(conn, doing, "remove case", case_id, {"act": case.act}, {})
    return replace(case, removed_at=doing.at, removed_by=doing.actor)


def one_case(conn: Connection, case_id: str) -> Case:
    """Raises NotFound."""
    found = conn.execute(f"{_CASES} WHERE c.id = ?", [case_id]).fetchone()
    if found is None:
        raise NotFound(f"no case {case_id!r}")
    return Case(**dict(found))


def cases(conn: Connection, conversation_id: str, in_force: bool, limit: int) -> list[Case]:
    """Newest first; of one conversation, or of all (empty)."""
    found = conn.execute(
        f"{_CASES} WHERE (:id = '' OR c.conversation_id = :id) AND (NOT :in_force OR {_IN_FORCE}) "
        "ORDER BY c.at DESC, c.id LIMIT :limit",
        {"id": conversation_id, "in_force": in_force, "limit": limit},
    )
    return [Case(**dict(row)) for row in found]


def add_case_use(conn: Connection, use: CaseUse) -> None:
    """Insert."""
    insert(conn, "case_uses", asdict(use))


_TAUGHT = """
SELECT drawn.value AS id, min(u.version) AS version FROM updates AS u, json_each(u.lineage) AS drawn
WHERE u.outcome = 'published' AND u.at >= ? AND drawn.value IN (SELECT value FROM json_each(?)) GROUP BY drawn.value
"""


def followed(conn: Connection, found: Sequence[Case]) -> list[Case]:
    """The same, each with the first versions that its lesson and its words taught. Reads every later update: for people, not
    for a loop."""
    drawn = [id_ for case in found for id_ in (case.lesson_id, case.id) if id_]
    since = min((case.at for case in found), default=0.0)
    taught = {row["id"]: row["version"] for row in conn.execute(_TAUGHT, [since, json.dumps(drawn)])}
    return [
        replace(case, taught=taught.get(case.lesson_id, ""), words_taught=taught.get(case.id, "")) for case in found
    ]


def case_uses(conn: Connection, conversation_id: str) -> list[CaseUse]:
    """Of a conversation's decisions."""
    found = conn.execute(
        "SELECT u.* FROM case_uses AS u JOIN decisions AS d ON d.id = u.decision_id WHERE d.conversation_id = ?",
        [conversation_id],
    )
    return [CaseUse(**dict(row)) for row in found]


def add_draft(conn: Connection, doing: Doing, draft: Draft) -> None:
    """Insert."""
    _inbox_row(conn, draft.conversation_id)
    insert(conn, "drafts", asdict(draft))
    note_in_audit(conn, doing, "draft article", draft.conversation_id, {}, {"draft": draft.id})


def set_draft(conn: Connection, doing: Doing, draft_id: str, changes: Mapping[str, str]) -> Draft:
    """Change title, question, answer or state. Raises NotFound."""
    found = conn.execute("SELECT * FROM drafts WHERE id = ?", [draft_id]).fetchone()
    if found is None:
        raise NotFound(f"no draft {draft_id!r}")
    before = Draft(**dict(found))
    after = replace(before, **dict[str, Any](changes))
    conn.execute(
        "UPDATE drafts SET title = :title, question = :question, answer = :answer, state = :state WHERE id = :id",
        asdict(after),
    )
    note_in_audit(conn, doing, "edit draft", draft_id, {"state": before.state}, {"state": after.state})
    return after


def drafts(conn: Connection, state: str) -> list[Draft]:
    """Newest first."""
    found = conn.execute("SELECT * FROM drafts WHERE state = ? ORDER BY at DESC, id LIMIT 500", [state])
    return [Draft(**dict(row)) for row in found]


_INSERT = "INSERT INTO {table} ({columns}) VALUES ({places})"


def insert(conn: Connection, table: str, row: Mapping[str, Any]) -> None:
    """Table and columns are ours, values are bound."""
    columns, places = ", ".join(row), ", ".join(f":{column}" for column in row)
    conn.execute(_INSERT.format(table=table, columns=columns, places=places), row)
