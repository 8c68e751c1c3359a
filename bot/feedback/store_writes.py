"""Every write of the replay store: functions of (connection, record), run on the writer thread inside a transaction.

Retries are expected: each function gives back what is stored when the same thing comes twice, and raises ConflictError
when another thing comes under the same key. Raises NotFound for a conversation or decision that is not stored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bot.conversation import Conversation, Decision, Message, Reward, Signal
from bot.errors import ConflictError, NotFound, StoreError
from bot.feedback import store_reads as reads
from bot.feedback import store_rows as rows
from bot.feedback.desk_records import CaseUse
from bot.feedback.store_connection import Connection, Row
from bot.feedback.store_desk import add_case_use, check_turn, note_language
from bot.feedback.store_records import UpdateRow, tracker_name

_INSERT = "INSERT INTO {table} ({columns}) VALUES ({places})"
_BY_CLIENT = "SELECT * FROM messages WHERE conversation_id = ? AND client_id = ? AND client_id <> ''"
_REOPEN = "UPDATE conversations SET status = 'bot' WHERE id = ? AND status = 'resolved'"
_BY_REVISION = """
SELECT * FROM rewards WHERE decision_id = :decision_id AND scope = :scope AND revision = :revision
"""


def _insert(conn: Connection, table: str, row: Mapping[str, Any]) -> int:
    """Insert one row; table and columns are ours, values are bound. Returns its rowid."""
    columns, places = ", ".join(row), ", ".join(f":{column}" for column in row)
    return conn.execute(_INSERT.format(table=table, columns=columns, places=places), row).lastrowid or 0


def add_conversation(conn: Connection, conversation: Conversation) -> None:
    """Insert."""
    found = conn.execute("SELECT * FROM conversations WHERE id = ?", [conversation.id]).fetchone()
    if found is None:
        _insert(conn, "conversations", rows.conversation_row(conversation))
    elif rows.conversation_from(found) != conversation:
        raise ConflictError(f"conversation {conversation.id!r} exists already and is another one")


def update_conversation(conn: Connection, conversation_id: str, changes: Mapping[str, Any]) -> Conversation:
    """Overwrite the settings that are given (not None)."""
    current = reads.conversation(conn, conversation_id)
    changed = replace(current, **{name: value for name, value in changes.items() if value is not None})
    conn.execute(
        "UPDATE conversations SET reply_mode = :reply_mode, learn_ok = :learn_ok, status = :status WHERE id = :id",
        rows.conversation_row(changed),
    )
    return changed


def add_user_message(conn: Connection, message: Message) -> tuple[Message, bool]:
    """Insert; returns (stored, is_new)."""
    row = conn.execute(_BY_CLIENT, [message.conversation_id, message.client_id]).fetchone()
    if row is None:
        # Whoever writes again has something to say: what was closed is open.
        conn.execute(_REOPEN, [message.conversation_id])
        return _append_message(conn, message)
    stored = rows.message_from(row)
    if stored.text != message.text:
        raise ConflictError(f"client_id {message.client_id!r} was used before with another text")
    return stored, False


def add_reply(
    conn: Connection,
    message: Message,
    decision: Decision | None,
    tracker: Mapping[str, Any] | None,
    status: str,
    language: str,
    case_use: CaseUse | None,
    events: Sequence[Mapping[str, Any]],
) -> Message:
    """Insert a message, the decision behind it, and how it leaves the conversation."""
    if not _exists(conn, message.id):
        check_turn(conn, message)
    if decision is not None and _add_decision(conn, decision):
        _add_what_led_there(conn, decision.id, case_use, events)
    stored, is_new = _append_message(conn, message)
    if is_new and tracker is not None:
        put_status(conn, tracker_name(message.conversation_id), tracker)
    if is_new and language:
        note_language(conn, message.conversation_id, language)
    if is_new and status:
        update_conversation(conn, message.conversation_id, {"status": status})
    return stored


def _add_what_led_there(
    conn: Connection, decision_id: str, case_use: CaseUse | None, events: Sequence[Mapping[str, Any]]
) -> None:
    if case_use is not None:
        add_case_use(conn, case_use)
    if events:
        _insert(conn, "action_events", {"decision_id": decision_id, "events": json.dumps(list(events), default=str)})


def _exists(conn: Connection, message_id: str) -> bool:
    return conn.execute("SELECT 1 FROM messages WHERE id = ?", [message_id]).fetchone() is not None


def _append_message(conn: Connection, message: Message) -> tuple[Message, bool]:
    reads.conversation(conn, message.conversation_id)
    found = conn.execute("SELECT * FROM messages WHERE id = ?", [message.id]).fetchone()
    if found is not None:
        return _same_message(rows.message_from(found), message), False
    last = conn.execute("SELECT max(seq) FROM messages WHERE conversation_id = ?", [message.conversation_id])
    stored = replace(message, seq=(last.fetchone()[0] or 0) + 1)
    _insert(conn, "messages", rows.message_row(stored))
    return stored, True


def _same_message(stored: Message, message: Message) -> Message:
    if replace(stored, seq=0, created_at=0.0) != replace(message, seq=0, created_at=0.0):
        raise ConflictError(f"message {message.id!r} exists already and is another one")
    return stored


def _add_decision(conn: Connection, decision: Decision) -> bool:
    """Whether it is new."""
    reads.conversation(conn, decision.conversation_id)
    row = rows.decision_row(decision)
    stored = conn.execute("SELECT * FROM decisions WHERE id = ?", [decision.id]).fetchone()
    if stored is not None:
        if any(stored[column] != value for column, value in row.items()):
            raise ConflictError(f"decision {decision.id!r} exists already and is another one")
        return False
    conn.executemany("INSERT OR IGNORE INTO act_texts (digest, texts) VALUES (?, ?)", rows.act_texts_rows(decision))
    _insert(conn, "decisions", row)
    return True


def add_signal(conn: Connection, signal: Signal) -> Signal:
    """Insert; returns it with `seq`."""
    row = rows.signal_row(signal)
    found = conn.execute("SELECT * FROM signals WHERE author = ? AND key = ?", [signal.author, signal.key]).fetchone()
    if found is not None:
        if found["body_digest"] != row["body_digest"]:
            raise ConflictError(f"key {signal.key!r} was used before with another body")
        return rows.signal_from(found)
    reads.conversation(conn, signal.conversation_id)
    if signal.decision_id:
        _check_belongs(conn, signal)
    return replace(signal, seq=_insert(conn, "signals", row))


def _check_belongs(conn: Connection, signal: Signal) -> None:
    found = conn.execute("SELECT conversation_id FROM decisions WHERE id = ?", [signal.decision_id]).fetchone()
    if found is None or found["conversation_id"] != signal.conversation_id:
        raise NotFound(f"no decision {signal.decision_id!r} in conversation {signal.conversation_id!r}")


def put_rewards(conn: Connection, rewards: Sequence[Reward], settled_seq: int) -> int:
    """Append revisions and move the settling cursor forward. Returns the highest reward seq."""
    for reward in rewards:
        _put_reward(conn, reward)
    conn.execute(
        "INSERT INTO cursors (name, seq) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET seq = max(seq, excluded.seq)",
        [reads.SETTLED, settled_seq],
    )
    return reads.last_reward_seq(conn)


def _put_reward(conn: Connection, reward: Reward) -> None:
    row = rows.reward_row(reward)
    stored = conn.execute(_BY_REVISION, row).fetchone()
    if stored is not None:
        _check_same_reward(stored, row)
        return
    # Consent is the conversation's as it stands now: a vote after "do not learn from this" teaches nothing.
    decision = conn.execute(
        "SELECT d.train_ok AND c.learn_ok AS train_ok, d.holdout FROM decisions d "
        "JOIN conversations c ON c.id = d.conversation_id WHERE d.id = ?",
        [reward.decision_id],
    ).fetchone()
    if decision is not None:
        _insert(conn, "rewards", row | dict(decision))
    elif not _is_erased(conn, reward.conversation_id):
        raise NotFound(f"no decision {reward.decision_id!r}")


def _is_erased(conn: Connection, conversation_id: str) -> bool:
    """Whoever settles may have read a conversation just before it was erased."""
    return conn.execute("SELECT 1 FROM erasures WHERE conversation_id = ?", [conversation_id]).fetchone() is not None


def _check_same_reward(stored: Row, row: Mapping[str, Any]) -> None:
    """Another process settled more signals under this revision number: to keep theirs silently would lose ours."""
    if any(stored[column] != row[column] for column in ("value", "terms")):
        raise ConflictError(f"reward revision {row['revision']} of decision {row['decision_id']!r} is another one")


def commit_update(conn: Connection, update: UpdateRow) -> int:
    """Append. Returns its seq. Raises StoreError when the cursor would go back: rows would enter the window twice."""
    last = conn.execute("SELECT cursor FROM updates ORDER BY seq DESC LIMIT 1").fetchone()
    if last is not None and update.cursor < last["cursor"]:
        raise StoreError(f"expected an update cursor of at least {last['cursor']}, got {update.cursor}")
    return _insert(conn, "updates", rows.update_row(update))


def put_status(conn: Connection, name: str, value: Mapping[str, Any]) -> None:
    """Overwrite."""
    conn.execute(
        "INSERT INTO status (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        [name, rows.to_json(f"status {name}", dict(value))],
    )
