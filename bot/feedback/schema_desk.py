"""Schema of what customer service works with: the inbox, people's accounts, cases, and the audit log. SQL text only.

`inbox` has one row a conversation with everything that its list shows, filters or sorts by, so that a page of a hundred
thousand conversations is read by an index. Triggers keep it in step inside the transaction that changes something,
whichever process that is; `revision` counts those changes, so whoever watches asks for what is past the last one seen.
Conversations that operators hold with themselves (demonstrations) are not in it.

Whatever speaks of a conversation goes with it when it is deleted (ON DELETE CASCADE). The audit log names things by id
and holds no words of a customer's: it is never changed.
"""

from __future__ import annotations

_INBOX = """
CREATE TABLE inbox (
    conversation_id TEXT PRIMARY KEY REFERENCES conversations (id) ON DELETE CASCADE,
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL,                  -- of the newest message
    status TEXT NOT NULL,                      -- the conversation's
    assignee TEXT NOT NULL DEFAULT '',         -- an account's name; the one who may speak while status is person
    waiting_since REAL NOT NULL DEFAULT 0,     -- since when a person is asked for; 0: nobody waits
    snoozed_until REAL NOT NULL DEFAULT 0,
    flagged INTEGER NOT NULL DEFAULT 0,
    language TEXT NOT NULL DEFAULT '',         -- ISO 639-1
    last_text TEXT NOT NULL DEFAULT '',        -- what its person said last; before that the greeting
    last_role TEXT NOT NULL DEFAULT '',
    num_messages INTEGER NOT NULL DEFAULT 0,
    up INTEGER NOT NULL DEFAULT 0,             -- thumbs in force
    down INTEGER NOT NULL DEFAULT 0,
    csat INTEGER NOT NULL DEFAULT 0,           -- 1..5; 0: none given
    outcome INTEGER NOT NULL DEFAULT -1,       -- 1 solved, 0 not solved, -1 nobody said
    revision INTEGER NOT NULL
) STRICT, WITHOUT ROWID
"""

_FACETS = """
CREATE TABLE inbox_facets (
    conversation_id TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    kind TEXT NOT NULL CHECK (kind IN ('act', 'article', 'version', 'tag')),
    value TEXT NOT NULL,
    PRIMARY KEY (conversation_id, kind, value)
) STRICT, WITHOUT ROWID
"""

_NEXT = "(SELECT coalesce(max(revision), 0) + 1 FROM inbox)"
_LAST_TEXT_CHARS = 240
_REPLACED = """(SELECT value FROM signals WHERE conversation_id = new.conversation_id AND kind = new.kind
                AND decision_id IS new.decision_id AND author = new.author AND seq < new.seq ORDER BY seq DESC LIMIT 1)"""
"""The signal that a new one takes the place of: to count anew would cost more with every signal of the conversation."""

_FILL = (
    f"""
    INSERT INTO inbox (conversation_id, created_at, updated_at, status, waiting_since, last_text, last_role,
        num_messages, up, down, csat, outcome, revision)
    SELECT c.id, c.created_at, coalesce(m.created_at, c.created_at), c.status,
        CASE c.status WHEN 'waiting' THEN coalesce(m.created_at, c.created_at) ELSE 0 END,
        coalesce((SELECT substr(text, 1, {_LAST_TEXT_CHARS}) FROM messages WHERE conversation_id = c.id
            ORDER BY role = 'user' DESC, CASE role WHEN 'user' THEN -seq ELSE seq END LIMIT 1), ''),
        coalesce(m.role, ''), coalesce(m.seq, 0),
        (SELECT count(*) FROM signals_in_force WHERE conversation_id = c.id AND kind = 'thumb' AND value > 0),
        (SELECT count(*) FROM signals_in_force WHERE conversation_id = c.id AND kind = 'thumb' AND value < 0),
        coalesce((SELECT cast(value AS INTEGER) FROM signals
            WHERE conversation_id = c.id AND kind = 'csat' ORDER BY seq DESC LIMIT 1), 0),
        coalesce((SELECT cast(value AS INTEGER) FROM signals
            WHERE conversation_id = c.id AND kind = 'outcome' ORDER BY seq DESC LIMIT 1), -1),
        row_number() OVER (ORDER BY c.created_at)
    FROM conversations AS c LEFT JOIN messages AS m ON m.conversation_id = c.id
        AND m.seq = (SELECT max(seq) FROM messages WHERE conversation_id = c.id)
    WHERE c.person_id NOT LIKE 'operator:%'
    """,  # noqa: S608 - our own names
    """
    INSERT OR IGNORE INTO inbox_facets
    SELECT conversation_id, 'act', act FROM messages WHERE act <> ''
    UNION SELECT conversation_id, 'version', version FROM messages WHERE version <> ''
    UNION SELECT m.conversation_id, 'article', s.value FROM messages AS m, json_each(m.sources) AS s
    """,
)
"""For homes that are older than the inbox."""

_KEPT_IN_STEP = (
    f"""
    CREATE TRIGGER inbox_follows_conversations AFTER INSERT ON conversations
    WHEN new.person_id NOT LIKE 'operator:%' BEGIN
        INSERT INTO inbox (conversation_id, created_at, updated_at, status, waiting_since, revision)
        VALUES (new.id, new.created_at, new.created_at, new.status,
            CASE new.status WHEN 'waiting' THEN new.created_at ELSE 0 END, {_NEXT});
    END
    """,  # noqa: S608 - our own names
    f"""
    CREATE TRIGGER inbox_follows_status AFTER UPDATE OF status ON conversations WHEN new.status <> old.status BEGIN
        UPDATE inbox SET status = new.status, revision = {_NEXT},
            waiting_since = CASE new.status WHEN 'waiting' THEN updated_at ELSE 0 END,
            assignee = CASE WHEN new.status = 'resolved' THEN '' ELSE assignee END
        WHERE conversation_id = new.id;
    END
    """,  # noqa: S608 - our own names
    f"""
    CREATE TRIGGER inbox_follows_messages AFTER INSERT ON messages BEGIN
        UPDATE inbox SET updated_at = max(updated_at, new.created_at), last_role = new.role,
            last_text = CASE WHEN new.role = 'user' OR num_messages = 0 THEN substr(new.text, 1, {_LAST_TEXT_CHARS})
                ELSE last_text END,
            num_messages = num_messages + 1, revision = {_NEXT},
            snoozed_until = CASE new.role WHEN 'user' THEN 0 ELSE snoozed_until END
        WHERE conversation_id = new.conversation_id;
        INSERT OR IGNORE INTO inbox_facets SELECT new.conversation_id, 'act', new.act WHERE new.act <> '';
        INSERT OR IGNORE INTO inbox_facets SELECT new.conversation_id, 'version', new.version WHERE new.version <> '';
        INSERT OR IGNORE INTO inbox_facets SELECT new.conversation_id, 'article', value FROM json_each(new.sources);
    END
    """,  # noqa: S608 - our own names
    f"""
    CREATE TRIGGER inbox_follows_signals AFTER INSERT ON signals BEGIN
        UPDATE inbox SET revision = {_NEXT},
            up = CASE new.kind WHEN 'thumb' THEN up + (new.value > 0) - coalesce({_REPLACED} > 0, 0) ELSE up END,
            down = CASE new.kind WHEN 'thumb' THEN down + (new.value < 0) - coalesce({_REPLACED} < 0, 0) ELSE down END,
            csat = CASE new.kind WHEN 'csat' THEN cast(new.value AS INTEGER) ELSE csat END,
            outcome = CASE new.kind WHEN 'outcome' THEN cast(new.value AS INTEGER) ELSE outcome END
        WHERE conversation_id = new.conversation_id;
    END
    """,  # noqa: S608 - our own names
)

_INDICES = (
    "CREATE INDEX inbox_by_time ON inbox (updated_at DESC, conversation_id)",
    "CREATE INDEX inbox_by_status ON inbox (status, updated_at DESC, conversation_id)",
    "CREATE INDEX inbox_waiting ON inbox (waiting_since, conversation_id) WHERE status = 'waiting'",
    "CREATE INDEX inbox_by_assignee ON inbox (assignee, updated_at DESC, conversation_id) WHERE assignee <> ''",
    "CREATE INDEX inbox_snoozed ON inbox (updated_at DESC, conversation_id) WHERE snoozed_until > 0",
    "CREATE INDEX inbox_up ON inbox (updated_at DESC, conversation_id) WHERE up > 0",
    "CREATE INDEX inbox_down ON inbox (updated_at DESC, conversation_id) WHERE down > 0",
    "CREATE INDEX inbox_flagged ON inbox (updated_at DESC, conversation_id) WHERE flagged = 1",
    "CREATE INDEX inbox_by_csat ON inbox (csat, updated_at DESC, conversation_id) WHERE csat > 0",
    "CREATE INDEX inbox_by_outcome ON inbox (outcome, updated_at DESC, conversation_id) WHERE outcome >= 0",
    "CREATE INDEX inbox_by_language ON inbox (language, updated_at DESC, conversation_id) WHERE language <> ''",
    "CREATE UNIQUE INDEX inbox_by_revision ON inbox (revision)",
    "CREATE INDEX inbox_facets_by_value ON inbox_facets (kind, value, conversation_id)",
)

_PEOPLE = (
    """
    CREATE TABLE accounts (
        name TEXT PRIMARY KEY,
        role TEXT NOT NULL CHECK (role IN ('operator', 'developer', 'admin')),
        password_hash TEXT NOT NULL,           -- argon2id, in PHC format
        created_at REAL NOT NULL,
        session_epoch INTEGER NOT NULL DEFAULT 0,  -- a higher one ends the sessions begun before
        disabled INTEGER NOT NULL DEFAULT 0 CHECK (disabled IN (0, 1))
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE saved_filters (
        owner TEXT NOT NULL,
        name TEXT NOT NULL,
        query TEXT NOT NULL,                   -- JSON object: the list's parameters
        PRIMARY KEY (owner, name)
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE TABLE macros (name TEXT PRIMARY KEY, text TEXT NOT NULL, author TEXT NOT NULL) STRICT, WITHOUT ROWID",
    """
    CREATE TABLE audit (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        at REAL NOT NULL,
        actor TEXT NOT NULL,
        action TEXT NOT NULL,
        target TEXT NOT NULL,
        before TEXT NOT NULL,                  -- JSON
        after TEXT NOT NULL,                   -- JSON
        chain TEXT NOT NULL                    -- hash of this row and the chain before it
    ) STRICT
    """,
    "CREATE INDEX audit_by_target ON audit (target, seq)",
)

_REVIEW = (
    """
    CREATE TABLE notes (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        conversation_id TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
        at REAL NOT NULL,
        author TEXT NOT NULL,
        text TEXT NOT NULL
    ) STRICT
    """,
    "CREATE INDEX notes_by_conversation ON notes (conversation_id, seq)",
    """
    CREATE TABLE cases (
        id TEXT PRIMARY KEY,
        at REAL NOT NULL,
        author TEXT NOT NULL,
        question TEXT NOT NULL,                -- as it was read
        act TEXT NOT NULL,                     -- the right one
        text TEXT NOT NULL,                    -- the right words; empty: the act's own
        draft TEXT NOT NULL,                   -- what the bot had said
        draft_act TEXT NOT NULL,
        conversation_id TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
        decision_id TEXT NOT NULL,             -- of the reply that was corrected; empty: of an operator's own reply
        lesson_id TEXT NOT NULL,               -- the decision that teaches the weights; empty: none
        removed_at REAL NOT NULL DEFAULT 0,
        removed_by TEXT NOT NULL DEFAULT ''
    ) STRICT
    """,
    "CREATE INDEX cases_by_conversation ON cases (conversation_id)",
    "CREATE INDEX cases_by_lesson ON cases (lesson_id)",
    """
    CREATE TABLE case_uses (
        decision_id TEXT PRIMARY KEY REFERENCES decisions (id) ON DELETE CASCADE,
        case_id TEXT NOT NULL,
        act TEXT NOT NULL,
        cosine REAL NOT NULL,
        prior_logit REAL NOT NULL              -- what it added to that act's prior
    ) STRICT
    """,
    "CREATE INDEX case_uses_by_case ON case_uses (case_id)",
    """
    CREATE TABLE drafts (
        id TEXT PRIMARY KEY,
        at REAL NOT NULL,
        author TEXT NOT NULL,
        title TEXT NOT NULL,
        question TEXT NOT NULL,
        answer TEXT NOT NULL,
        conversation_id TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
        decision_id TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('draft', 'published', 'dropped'))
    ) STRICT
    """,
    """
    CREATE TABLE pairs (
        id TEXT PRIMARY KEY,
        at REAL NOT NULL,
        decision_id TEXT NOT NULL REFERENCES decisions (id) ON DELETE CASCADE,
        left_version TEXT NOT NULL,
        left_act TEXT NOT NULL,
        right_version TEXT NOT NULL,
        right_act TEXT NOT NULL,
        author TEXT NOT NULL DEFAULT '',
        judged_at REAL NOT NULL DEFAULT 0,
        verdict TEXT NOT NULL DEFAULT '' CHECK (verdict IN ('', 'left', 'right', 'both', 'neither'))
    ) STRICT
    """,
    "CREATE INDEX pairs_by_decision ON pairs (decision_id)",
)

_AUDIT_IS_APPEND_ONLY = tuple(
    f"CREATE TRIGGER audit_never_{word} BEFORE {verb} ON audit BEGIN SELECT RAISE (ABORT, 'audit is append-only'); END"
    for word, verb in (("updated", "UPDATE"), ("deleted", "DELETE"))
)

_AUTHORS = "ALTER TABLE messages ADD COLUMN author TEXT NOT NULL DEFAULT ''"

DESK: tuple[str, ...] = (
    *(_AUTHORS, _INBOX, _FACETS),
    *_FILL,
    *_INDICES,
    *_KEPT_IN_STEP,
    *_PEOPLE,
    *_REVIEW,
    *_AUDIT_IS_APPEND_ONLY,
)
"""The statements of the migration, in order."""

WORDLESS = "status = 'bot' AND num_messages < 2 AND last_role <> 'user'"
"""Of the inbox: a page was opened and left at the greeting, which may be most of all rows."""
WORDLESS_VISITS = (f"CREATE INDEX inbox_wordless ON inbox (snoozed_until) WHERE {WORDLESS}",)

DISPLAY_NAMES = ("ALTER TABLE accounts ADD COLUMN display_name TEXT NOT NULL DEFAULT ''",)

PROVIDER_ACCOUNTS = (
    "ALTER TABLE accounts ADD COLUMN subject TEXT NOT NULL DEFAULT ''",  # issuer and id at a sign-in provider
    "CREATE UNIQUE INDEX accounts_by_subject ON accounts (subject) WHERE subject <> ''",
)
