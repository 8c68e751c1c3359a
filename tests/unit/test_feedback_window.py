"""What the learner reads: revisions in force at a cursor, each fresh once, at a cost that does not grow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.conversation import Reward
from bot.feedback.store import Rated, Store
from bot.feedback.store_connection import Connection
from bot.feedback.store_reads import COUNT_FRESH, LAST_REWARD, SIGNALS_AFTER, WINDOW
from tests.builders import make_conversation, make_decision, make_message, make_reward, make_signal


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """d1, d2, d3 train; `held` belongs to the gate; `private` may not be learned from. All in c1."""
    with Store(tmp_path / "rejoinder.db") as opened:
        opened.add_conversation(make_conversation())
        for decision in (
            *(make_decision(id=f"d{i}", turn=i) for i in (1, 2, 3)),
            make_decision(id="held", holdout=True),
            make_decision(id="private", train_ok=False),
        ):
            opened.add_reply(make_message(id=f"m{decision.id}", role="bot", decision_id=decision.id), decision)
        yield opened


def put(store: Store, *rewards: Reward) -> int:
    """Append; returns the highest seq."""
    return store.put_rewards(rewards, 0)


def shown(rated: list[Rated]) -> list[tuple[str, float | None]]:
    """[(decision id, value)], in the order given."""
    return [(row.decision.id, row.reward.value) for row in rated]


def test_the_window_holds_the_newest_rewards_oldest_first(store: Store) -> None:
    """Two of three."""
    last = put(store, *(make_reward(decision_id=f"d{i}", value=i / 10) for i in (1, 2, 3)))
    assert shown(store.window(last, 2)) == [("d2", 0.2), ("d3", 0.3)]
    assert store.window(last, 2)[0].decision == store.decision("d2")


def test_a_newer_revision_replaces_the_older_one(store: Store) -> None:
    """And is the newest reward there is."""
    put(store, make_reward(decision_id="d1"), make_reward(decision_id="d2"))
    last = put(store, make_reward(decision_id="d1", revision=2, value=-0.5))
    assert shown(store.window(last, 10)) == [("d2", 0.5), ("d1", -0.5)]


def test_a_withdrawn_reward_is_not_in_the_window(store: Store) -> None:
    """Masked, never 0; it does not use up the limit either."""
    put(store, make_reward(decision_id="d1"), make_reward(decision_id="d2"))
    last = put(store, make_reward(decision_id="d2", revision=2, value=None, terms=()))
    assert shown(store.window(last, 1)) == [("d1", 0.5)]


def test_a_reward_given_again_after_a_withdrawal_counts(store: Store) -> None:
    """Revision 3."""
    put(store, make_reward(), make_reward(revision=2, value=None, terms=()))
    last = put(store, make_reward(revision=3, value=-0.5))
    assert shown(store.window(last, 10)) == [("d1", -0.5)]


def test_a_window_at_an_older_cursor_stays_as_it_was(store: Store) -> None:
    """A learner that starts again from its checkpoint sees what it saw, whatever was appended since."""
    cursors = [put(store, make_reward(decision_id="d1")), put(store, make_reward(decision_id="d2"))]
    before = [store.window(cursor, 10) for cursor in cursors]
    put(store, make_reward(revision=2, value=None, terms=()), make_reward(decision_id="d2", revision=2, value=-1.0))
    assert [store.window(cursor, 10) for cursor in cursors] == before
    assert [len(rated) for rated in before] == [1, 2]


def test_scopes_are_revised_apart(store: Store) -> None:
    """Withdrawing the conversation's reward leaves the reply's."""
    put(store, make_reward(), make_reward(scope="conversation", value=1.0))
    last = put(store, make_reward(scope="conversation", revision=2, value=None, terms=()))
    assert [(row.reward.scope, row.reward.value) for row in store.window(last, 10)] == [("reply", 0.5)]


def test_the_gates_share_and_the_learners_never_mix(store: Store) -> None:
    """And what may not be learned from is in neither."""
    last = put(store, *(make_reward(decision_id=name) for name in ("d1", "held", "private")))
    assert shown(store.window(last, 10)) == [("d1", 0.5)]
    assert shown(store.window(last, 10, holdout=True)) == [("held", 0.5)]
    assert store.count_fresh(0) == 1


def test_fresh_counts_revisions_past_the_cursor(store: Store) -> None:
    """Withdrawals are news too."""
    first = put(store, make_reward(decision_id="d1"), make_reward(decision_id="d2"))
    put(store, make_reward(decision_id="d1", revision=2, value=None, terms=()))
    assert (store.count_fresh(0), store.count_fresh(first), store.count_fresh(store.last_reward_seq())) == (3, 1, 0)


def test_signals_settle_up_to_the_first_young_one(store: Store) -> None:
    """Those behind it wait, so that a cursor is enough to remember what was done."""
    store.add_conversation(make_conversation(id="c2"))
    for key, conversation_id, at in (("a", "c1", 10.0), ("b", "c2", 20.0), ("c", "c1", 40.0), ("d", "c2", 30.0)):
        store.add_signal(make_signal(key=key, conversation_id=conversation_id, created_at=at, decision_id=""))
    assert store.conversations_to_settle(0, 5.0) == ([], 0)
    assert store.conversations_to_settle(0, 30.0) == (["c1", "c2"], 2)
    assert store.conversations_to_settle(2, 30.0) == ([], 2)
    assert store.conversations_to_settle(2, 40.0) == (["c1", "c2"], 4)
    assert store.conversations_to_settle(0, 40.0, limit=3) == (["c1", "c2"], 3)


# --- what it costs ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("sql", [SIGNALS_AFTER, COUNT_FRESH, WINDOW, LAST_REWARD])
def test_learner_reads_walk_an_index(store: Store, sql: str) -> None:
    """No scan of a table, no sorting."""

    def plan(conn: Connection) -> list[str]:
        bound = {"until_seq": 9, "limit": 9, "holdout": 0} if ":" in sql else [9] * sql.count("?")
        return [row["detail"] for row in conn.execute("EXPLAIN QUERY PLAN " + sql, bound)]

    details = store._read(plan)
    assert [detail for detail in details if "SCAN" in detail or "TEMP B-TREE" in detail] == []
    assert any("SEARCH" in detail for detail in details)


def _fill(conn: Connection, count: int) -> None:
    """`count` more decisions, each rated, every fourth twice, every twentieth withdrawn; and their signals."""
    start = conn.execute("SELECT max(seq) FROM decisions").fetchone()[0]
    numbers = f"WITH RECURSIVE n (i) AS (SELECT {start} UNION ALL SELECT i + 1 FROM n WHERE i < {start + count - 1})"
    columns = [row["name"] for row in conn.execute("PRAGMA table_info (decisions)")][2:]
    conn.execute(
        f"INSERT INTO decisions (id, {', '.join(columns)}) {numbers} "
        f"SELECT 'f' || i, {', '.join(columns)} FROM n, (SELECT * FROM decisions WHERE id = 'd1')"
    )
    conn.execute(
        "INSERT INTO rewards (decision_id, scope, revision, conversation_id, value, terms, rules_hash, settled_at, "
        f"train_ok, holdout) {numbers}, r (revision, value, every) AS (VALUES (1, 0.5, 1), (2, -0.5, 4), (3, NULL, 20)) "
        "SELECT 'f' || i, 'reply', revision, 'c1', value, '[]', 'r', 1.0, 1, 0 FROM n, r WHERE i % every = 0 "
        "ORDER BY i, revision"
    )
    conn.execute(
        "INSERT INTO signals (key, conversation_id, kind, value, author, created_at, source, label, comment, "
        f"body_digest) {numbers} SELECT 'f' || i, 'c1', 'thumb', 1, 'p', 1.0, 'user', '', '', '' FROM n"
    )


def _num_steps(store: Store) -> list[int]:
    """Instructions of SQLite's virtual machine that each learner read of at most 100 rows takes."""

    def measure(conn: Connection) -> list[int]:
        last_reward = conn.execute(LAST_REWARD).fetchone()[0]
        last_signal = conn.execute("SELECT max(seq) FROM signals").fetchone()[0]
        reads = [
            (SIGNALS_AFTER, [last_signal - 100, 100]),
            (COUNT_FRESH, [last_reward - 100]),
            (WINDOW, {"until_seq": last_reward, "limit": 100, "holdout": 0}),
        ]
        return [_steps_of(conn, sql, bound) for sql, bound in reads]

    return store._read(measure)


def _steps_of(conn: Connection, sql: str, bound: object) -> int:
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    conn.set_progress_handler(count, 1)
    conn.execute(sql, bound).fetchall()  # type: ignore[arg-type]
    conn.set_progress_handler(None, 0)
    return steps


def test_learner_reads_cost_the_same_in_a_store_twenty_times_as_large(store: Store) -> None:
    """Counted in steps, not in seconds; the control, a scan, grows with the store."""
    store._write(_fill, 1000)
    small = _num_steps(store)
    scan = "SELECT count(*) FROM rewards WHERE value > 0"
    small_scan = store._read(_steps_of, scan, [])
    store._write(_fill, 19_000)
    assert _num_steps(store) == pytest.approx(small, rel=0.1)
    assert store._read(_steps_of, scan, []) > 15 * small_scan
