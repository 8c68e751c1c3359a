"""Ordered migrations of the replay store. Each runs in one transaction together with its record.

A released migration is never edited: append another below it.
"""

from __future__ import annotations

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from bot.errors import StoreError
from bot.feedback import schema, schema_desk
from bot.feedback.store_connection import Connection, transaction

migrations = Migrations("feedback")


@migrations(name="0001_replay_store")
def replay_store(db: Database) -> None:
    """Everything the loop needs: conversations, messages, decisions, signals, rewards, updates."""
    for statement in schema.REPLAY_STORE:
        db.execute(statement)


@migrations(name="0002_rules_versions")
def rules_versions(db: Database) -> None:
    """Reward rules with author and reason."""
    for statement in schema.RULES_VERSIONS:
        db.execute(statement)


@migrations(name="0003_asked_replies")
def asked_replies(db: Database) -> None:
    """Replies under which a rating was asked for."""
    for statement in schema.ASKED_REPLIES:
        db.execute(statement)


@migrations(name="0004_erasures")
def erasures(db: Database) -> None:
    """Conversations may be erased; who waits for a person is found at once."""
    for statement in schema.ERASURES:
        db.execute(statement)


@migrations(name="0005_desk")
def desk(db: Database) -> None:
    """What customer service works with: inbox, accounts, cases, audit."""
    for statement in schema_desk.DESK:
        db.execute(statement)


@migrations(name="0006_provider_accounts")
def provider_accounts(db: Database) -> None:
    """Accounts of people who sign in with a provider."""
    for statement in schema_desk.PROVIDER_ACCOUNTS:
        db.execute(statement)


@migrations(name="0007_case_texts")
def case_texts(db: Database) -> None:
    """No person's question stays in the choices of others."""
    for statement in schema.CASE_TEXTS:
        db.execute(statement)


@migrations(name="0008_action_events")
def action_events(db: Database) -> None:
    """Actions that ran, slots and forms that changed, step by step."""
    for statement in schema.ACTION_EVENTS:
        db.execute(statement)


@migrations(name="0009_display_names")
def display_names(db: Database) -> None:
    """What end users read of those who sign in with a provider."""
    for statement in schema_desk.DISPLAY_NAMES:
        db.execute(statement)


@migrations(name="0010_wordless_visits")
def wordless_visits(db: Database) -> None:
    """Visits that ended at the greeting are counted by an index."""
    for statement in schema_desk.WORDLESS_VISITS:
        db.execute(statement)


def migrate(conn: Connection) -> None:
    """Bring the file up to date. Two processes may start at once: the second waits, then finds nothing to do.

    Raises StoreError when the file was written by a newer release.
    """
    with transaction(conn):
        db = Database(conn, execute_plugins=False)
        _refuse_newer(db)
        migrations.apply(db)


def check_migrated(conn: Connection) -> None:
    """For readers that may not write. Raises StoreError unless the file is exactly at this release's schema."""
    db = Database(conn, execute_plugins=False)
    _refuse_newer(db)
    pending = [migration.name for migration in migrations.pending(db)]
    if pending:
        raise StoreError(f"expected an up-to-date replay store, got one without {pending[0]}; start the server once")


def _refuse_newer(db: Database) -> None:
    known = {migration.name for migration in migrations.pending(Database(memory=True))}
    unknown = [migration.name for migration in migrations.applied(db) if migration.name not in known]
    if unknown:
        raise StoreError(f"the replay store was written by a newer release (it has {unknown[0]})")
