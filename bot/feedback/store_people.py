"""Accounts, saved filters and macros: functions of (connection, ...). Passwords come here as argon2 hashes only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from bot.errors import ConflictError, NotFound
from bot.feedback.desk_records import Account
from bot.feedback.store_connection import Connection
from bot.feedback.store_desk import Doing, note_in_audit
from bot.feedback.store_rows import to_json


def _account_from(row: Any) -> Account:
    return Account(**dict(row) | {"disabled": bool(row["disabled"])})


def account(conn: Connection, name: str) -> Account:
    """Raises NotFound."""
    found = conn.execute("SELECT * FROM accounts WHERE name = ?", [name]).fetchone()
    if found is None:
        raise NotFound(f"no account {name!r}")
    return _account_from(found)


def accounts(conn: Connection) -> list[Account]:
    """By name."""
    return [_account_from(row) for row in conn.execute("SELECT * FROM accounts ORDER BY name")]


def add_account(conn: Connection, doing: Doing, new: Account) -> None:
    """Insert. Raises ConflictError when the name is taken."""
    if conn.execute("SELECT 1 FROM accounts WHERE name = ?", [new.name]).fetchone():
        raise ConflictError(f"name: expected a free one, got {new.name!r}")
    conn.execute(
        "INSERT INTO accounts (name, role, password_hash, created_at, session_epoch, disabled, subject, display_name) "
        "VALUES (:name, :role, :password_hash, :created_at, :session_epoch, :disabled, :subject, :display_name)",
        asdict(new),
    )
    note_in_audit(conn, doing, "add account", new.name, {}, {"role": new.role, "provider": bool(new.subject)})


def change_account(
    conn: Connection, doing: Doing, name: str, changes: Mapping[str, Any], action: str = "change account"
) -> Account:
    """Change role, password_hash, disabled, subject or display_name; whoever was signed in must sign in again. Raises NotFound."""
    before = account(conn, name)
    after = replace(before, **changes, session_epoch=before.session_epoch + 1)
    conn.execute(
        "UPDATE accounts SET role = :role, password_hash = :password_hash, disabled = :disabled, "
        "subject = :subject, display_name = :display_name, session_epoch = :session_epoch WHERE name = :name",
        asdict(after),
    )
    shown, changed = _shown_in_audit(before), _shown_in_audit(after) | {"password": "password_hash" in changes}
    note_in_audit(conn, doing, action, name, shown, changed)
    return after


def _shown_in_audit(account: Account) -> dict[str, Any]:
    return {"role": account.role, "disabled": account.disabled, "provider": bool(account.subject)}


def show_account_as(conn: Connection, doing: Doing, name: str, display_name: str) -> Account:
    """What end users read of them from now on; nobody is signed out by it. Raises NotFound."""
    after = replace(account(conn, name), display_name=display_name)
    conn.execute("UPDATE accounts SET display_name = :display_name WHERE name = :name", asdict(after))
    note_in_audit(conn, doing, "show account as", name, {}, {"named": bool(display_name)})
    return after


def saved_filters(conn: Connection, owner: str) -> dict[str, dict[str, Any]]:
    """Name -> the list's parameters."""
    found = conn.execute("SELECT name, query FROM saved_filters WHERE owner = ? ORDER BY name", [owner])
    return {row["name"]: json.loads(row["query"]) for row in found}


def save_filter(conn: Connection, doing: Doing, name: str, query: Mapping[str, Any] | None) -> None:
    """Keep the actor's filter under this name; None: forget it."""
    key = {"owner": doing.actor, "name": name}
    if query is None:
        conn.execute("DELETE FROM saved_filters WHERE owner = :owner AND name = :name", key)
    else:
        conn.execute(
            "INSERT INTO saved_filters VALUES (:owner, :name, :query) "
            "ON CONFLICT (owner, name) DO UPDATE SET query = excluded.query",
            key | {"query": to_json("saved filter", dict(query))},
        )
    note_in_audit(conn, doing, "save filter" if query is not None else "forget filter", name, {}, {})


def macros(conn: Connection) -> dict[str, str]:
    """Name -> text."""
    return {row["name"]: row["text"] for row in conn.execute("SELECT name, text FROM macros ORDER BY name")}


def save_macro(conn: Connection, doing: Doing, name: str, text: str | None) -> None:
    """Keep a reply for everybody under this name; None: forget it."""
    if text is None:
        conn.execute("DELETE FROM macros WHERE name = ?", [name])
    else:
        conn.execute(
            "INSERT INTO macros VALUES (:name, :text, :author) "
            "ON CONFLICT (name) DO UPDATE SET text = excluded.text, author = excluded.author",
            {"name": name, "text": text, "author": doing.actor},
        )
    note_in_audit(conn, doing, "save macro" if text is not None else "forget macro", name, {}, {})
