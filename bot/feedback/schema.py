"""The replay store's schema, declared once. SQL text only; `migrations` applies it.

decisions, signals, rewards, messages, act_texts and updates are append-only: triggers refuse UPDATE and DELETE.
One thing alone may delete: erasing a conversation, which names it in `erasing` within its transaction (`store_erasure`).
Overwritten on purpose: a conversation's settings, `cursors` and `status`.

A sequence (`seq`) is assigned inside a write transaction, and SQLite has one writer at a time, so sequences become
visible in order: a reader that has seen seq n will never see a new row at or below n. Cursors rest on this.
"""

from __future__ import annotations

_CONVERSATIONS = """
CREATE TABLE conversations (
    id TEXT PRIMARY KEY,
    person_id TEXT NOT NULL,
    created_at REAL NOT NULL,
    domain TEXT NOT NULL,
    reply_mode TEXT NOT NULL CHECK (reply_mode IN ('approved', 'generated')),
    learn_ok INTEGER NOT NULL CHECK (learn_ok IN (0, 1)),
    status TEXT NOT NULL CHECK (status IN ('bot', 'waiting', 'person', 'resolved'))
) STRICT
"""

_ACT_TEXTS = """
CREATE TABLE act_texts (
    digest TEXT PRIMARY KEY,
    texts TEXT NOT NULL  -- JSON list
) STRICT, WITHOUT ROWID
"""

_DECISIONS = """
CREATE TABLE decisions (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    conversation_id TEXT NOT NULL REFERENCES conversations (id),
    person_id TEXT NOT NULL,
    turn INTEGER NOT NULL,
    created_at REAL NOT NULL,
    query TEXT NOT NULL,
    query_ids TEXT NOT NULL,     -- JSON list
    prompt TEXT NOT NULL,
    legal TEXT NOT NULL,         -- JSON list of {act, digest, prior_logit}; digest points into act_texts
    logprobs TEXT NOT NULL,      -- JSON list; shortest round-trip decimals, so every bit comes back
    chosen INTEGER NOT NULL,
    mode INTEGER NOT NULL,
    value REAL NOT NULL,
    version TEXT NOT NULL,
    parts TEXT NOT NULL,         -- JSON list
    temperature REAL NOT NULL,
    knowledge_revision TEXT NOT NULL,
    generated TEXT,              -- JSON object
    train_ok INTEGER NOT NULL CHECK (train_ok IN (0, 1)),
    holdout INTEGER NOT NULL CHECK (holdout IN (0, 1)),
    timings_ms TEXT NOT NULL     -- JSON object
) STRICT
"""

_MESSAGES = """
CREATE TABLE messages (
    row_id INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    conversation_id TEXT NOT NULL REFERENCES conversations (id),
    seq INTEGER NOT NULL,
    role TEXT NOT NULL CHECK (role IN ('user', 'bot', 'operator', 'system')),
    text TEXT NOT NULL,
    created_at REAL NOT NULL,
    client_id TEXT NOT NULL,
    decision_id TEXT REFERENCES decisions (id),
    act TEXT NOT NULL,
    version TEXT NOT NULL,
    sources TEXT NOT NULL,        -- JSON list
    quick_replies TEXT NOT NULL,  -- JSON list
    stop_reason TEXT NOT NULL,
    UNIQUE (conversation_id, seq)
) STRICT
"""

_SIGNALS = """
CREATE TABLE signals (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL,
    conversation_id TEXT NOT NULL REFERENCES conversations (id),
    kind TEXT NOT NULL,
    value REAL NOT NULL,
    author TEXT NOT NULL,
    created_at REAL NOT NULL,
    decision_id TEXT REFERENCES decisions (id),
    source TEXT NOT NULL CHECK (source IN ('user', 'operator', 'system', 'backoffice')),
    label TEXT NOT NULL,
    comment TEXT NOT NULL,
    body_digest TEXT NOT NULL,
    UNIQUE (author, key)
) STRICT
"""

_REWARDS = """
CREATE TABLE rewards (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    decision_id TEXT NOT NULL REFERENCES decisions (id),
    scope TEXT NOT NULL CHECK (scope IN ('reply', 'conversation')),
    revision INTEGER NOT NULL CHECK (revision >= 1),
    conversation_id TEXT NOT NULL REFERENCES conversations (id),
    value REAL,                   -- NULL withdraws
    terms TEXT NOT NULL,          -- JSON list of [rule, value, signal_seq]
    rules_hash TEXT NOT NULL,
    settled_at REAL NOT NULL,
    train_ok INTEGER NOT NULL,    -- copied from the decision, so that the learner's reads need no join to filter
    holdout INTEGER NOT NULL,
    UNIQUE (decision_id, scope, revision)
) STRICT
"""

_UPDATES = """
CREATE TABLE updates (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL,
    cursor INTEGER NOT NULL,
    checkpoint TEXT NOT NULL,
    outcome TEXT NOT NULL CHECK (outcome IN ('published', 'refused', 'skipped')),
    version TEXT NOT NULL,
    metrics TEXT NOT NULL,        -- JSON object
    lineage TEXT NOT NULL         -- JSON list of decision ids
) STRICT
"""

_SHARED_STATE = (
    "CREATE TABLE cursors (name TEXT PRIMARY KEY, seq INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    "CREATE TABLE status (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID",
)

_INDICES = (
    "CREATE INDEX conversations_by_time ON conversations (created_at)",
    "CREATE INDEX decisions_by_conversation ON decisions (conversation_id, turn)",
    "CREATE INDEX decisions_by_version ON decisions (version, conversation_id)",
    "CREATE UNIQUE INDEX messages_by_client ON messages (conversation_id, client_id) WHERE client_id <> ''",
    "CREATE INDEX signals_by_slot ON signals (conversation_id, kind, decision_id, author, seq)",
    "CREATE INDEX rewards_by_conversation ON rewards (conversation_id, seq)",
    "CREATE INDEX rewards_trainable ON rewards (holdout, seq) WHERE train_ok = 1",
)

_VIEWS = (
    """
    CREATE VIEW signals_in_force AS SELECT * FROM signals AS s WHERE NOT EXISTS (
        SELECT 1 FROM signals AS newer WHERE newer.conversation_id = s.conversation_id AND newer.kind = s.kind
        AND newer.decision_id IS s.decision_id AND newer.author = s.author AND newer.seq > s.seq)
    """,
    """
    CREATE VIEW rewards_in_force AS SELECT * FROM rewards AS r WHERE r.value IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM rewards AS newer WHERE newer.decision_id = r.decision_id AND newer.scope = r.scope
        AND newer.revision > r.revision)
    """,
)

_SEARCH = (
    """
    CREATE VIRTUAL TABLE messages_fts USING fts5 (
        text, content = 'messages', content_rowid = 'row_id', tokenize = 'unicode61 remove_diacritics 2')
    """,
    """
    CREATE TRIGGER messages_are_searchable AFTER INSERT ON messages BEGIN
        INSERT INTO messages_fts (rowid, text) VALUES (new.row_id, new.text);
    END
    """,
)

_SAME_DIGEST_SAME_TEXTS = """
CREATE TRIGGER act_texts_are_content_addressed BEFORE INSERT ON act_texts
WHEN EXISTS (SELECT 1 FROM act_texts WHERE digest = new.digest AND texts <> new.texts)
BEGIN SELECT RAISE (ABORT, 'two different act texts have one digest'); END
"""

APPEND_ONLY = ("decisions", "signals", "rewards", "messages", "act_texts", "updates")
"""Tables whose rows are never changed or removed."""


def _append_only(table: str) -> tuple[str, str]:
    refuse = f"BEGIN SELECT RAISE (ABORT, '{table} is append-only'); END"
    return (
        f"CREATE TRIGGER {table}_never_updated BEFORE UPDATE ON {table} {refuse}",
        f"CREATE TRIGGER {table}_never_deleted BEFORE DELETE ON {table} {refuse}",
    )


REPLAY_STORE: tuple[str, ...] = (
    *(_CONVERSATIONS, _ACT_TEXTS, _DECISIONS, _MESSAGES, _SIGNALS, _REWARDS, _UPDATES),
    *_SHARED_STATE,
    *_INDICES,
    *_VIEWS,
    *_SEARCH,
    _SAME_DIGEST_SAME_TEXTS,
    *(trigger for table in APPEND_ONLY for trigger in _append_only(table)),
)
"""The statements of the first migration, in order."""

RULES_VERSIONS: tuple[str, ...] = (
    """
    CREATE TABLE rules_versions (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        at REAL NOT NULL,
        author TEXT NOT NULL,
        reason TEXT NOT NULL,
        text TEXT NOT NULL,           -- the whole file
        rules_hash TEXT NOT NULL,
        file_hash TEXT NOT NULL       -- of the domain's own rules at that time
    ) STRICT
    """,
    *_append_only("rules_versions"),
)
"""Reward rules that were put in force in place of the domain's file."""

ASKED_REPLIES: tuple[str, ...] = (
    "ALTER TABLE messages ADD COLUMN ask_rating INTEGER NOT NULL DEFAULT 0 CHECK (ask_rating IN (0, 1))",
)
"""Under which replies the person was asked for a rating."""

ERASABLE = ("decisions", "signals", "rewards", "messages")
"""Append-only tables whose rows go when their conversation is erased."""


_DELETED_ONLY_BY_ERASURE = """
CREATE TRIGGER {table}_never_deleted BEFORE DELETE ON {table}
WHEN old.conversation_id NOT IN (SELECT conversation_id FROM erasing)
BEGIN SELECT RAISE (ABORT, '{table} is append-only'); END
"""


def _deleted_only_by_erasure(table: str) -> tuple[str, str]:
    return f"DROP TRIGGER {table}_never_deleted", _DELETED_ONLY_BY_ERASURE.format(table=table)


ERASURES: tuple[str, ...] = (
    # Empty but within the transaction that erases.
    "CREATE TABLE erasing (conversation_id TEXT PRIMARY KEY) STRICT, WITHOUT ROWID",
    """
    CREATE TABLE erasures (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        at REAL NOT NULL,
        author TEXT NOT NULL,
        conversation_id TEXT NOT NULL,
        num_messages INTEGER NOT NULL,
        num_decisions INTEGER NOT NULL,
        num_signals INTEGER NOT NULL,
        versions TEXT NOT NULL        -- JSON list: published versions whose lineage holds one of its decisions
    ) STRICT
    """,
    *_append_only("erasures"),
    *(statement for table in ERASABLE for statement in _deleted_only_by_erasure(table)),
    """
    CREATE TRIGGER messages_are_forgotten AFTER DELETE ON messages BEGIN
        INSERT INTO messages_fts (messages_fts, rowid, text) VALUES ('delete', old.row_id, old.text);
    END
    """,
    # Without it the index would keep deleted words until its segments happen to be merged.
    "INSERT INTO messages_fts (messages_fts, rank) VALUES ('secure-delete', 1)",
    "CREATE INDEX conversations_waiting ON conversations (created_at) WHERE status = 'waiting'",
)
"""Forgetting a conversation, and the queue of those who wait for a person."""

_NAMED = "SELECT item.value ->> '$.digest' AS digest FROM decisions, json_each(legal) AS item WHERE"
CASE_TEXTS: tuple[str, ...] = (
    "DROP TRIGGER act_texts_never_deleted",
    f"""
    DELETE FROM act_texts WHERE texts <> '[]'
    AND digest IN ({_NAMED} legal LIKE '%answer:case%' AND item.value ->> '$.act' LIKE 'answer:case\\_%' ESCAPE '\\')
    AND digest NOT IN ({_NAMED} item.value ->> '$.act' NOT LIKE 'answer:case\\_%' ESCAPE '\\')
    """,  # noqa: S608 - our own names
    _append_only("act_texts")[1],
)
"""Earlier releases kept a person's question as the text of a case's act, in the choices of others, where erasing the question
did not reach it. The texts go; those choices score no more, so they teach no more."""

ACTION_EVENTS: tuple[str, ...] = (
    """
    CREATE TABLE action_events (
        decision_id TEXT PRIMARY KEY REFERENCES decisions (id) ON DELETE CASCADE,
        events TEXT NOT NULL          -- JSON list of Rasa's events
    ) STRICT, WITHOUT ROWID
    """,
)
"""What a step did beside speaking; erased with its decision."""
