"""Rules put in force, delays of single rules: what becomes of stored rewards, once and only once."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bot.errors import StoreError
from bot.feedback.rewards import rewards_for
from bot.feedback.rules import Rules, RulesError, parse_rules
from bot.feedback.settle import apply_rules, put_in_force, rules_in_force, settle
from bot.feedback.store import RulesVersion, Store
from tests.builders import make_conversation, make_decision, make_message, make_signal

FILE = "version: 1\nrules:\n  thumb: {up: 0.5, down: -0.5}\n  outcome: {solved: 1, not_solved: -1}\n"
HEAVIER = FILE.replace("up: 0.5", "up: 0.75")
DELAYED = (
    FILE.replace("version: 1", "version: 2")
    + "rewards: {late: {rules: {name: again, when: {signal: thumb}, reward: 0.25 * value, delay_s: 100}}}\n"
)
RULES = parse_rules(FILE)
SETTLE_S = 3.0


def fill(store: Store) -> None:
    """Conversation c1, two decisions, the second shown as a text."""
    store.add_conversation(make_conversation(id="c1"))
    for turn in (1, 2):
        decision = make_decision(id=f"d{turn}", turn=turn, created_at=float(turn))
        reply = make_message(id=f"m{turn}", role="bot", decision_id=decision.id, text="Your card is on its way.")
        store.add_reply(reply, decision)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """See `fill`."""
    with Store(tmp_path / "rejoinder.db") as opened:
        fill(opened)
        yield opened


def thumb(store: Store, key: str, value: float, at: float, decision_id: str = "d1") -> None:
    store.add_signal(make_signal(key=key, value=value, created_at=at, decision_id=decision_id))


def history(store: Store) -> list[tuple[str, int, float | None]]:
    """[(decision id, revision, value)] in the order appended."""
    return [(reward.decision_id, reward.revision, reward.value) for reward in store.rewards_of("c1")]


def put(store: Store, text: str, file_rules: Rules = RULES) -> RulesVersion:
    return put_in_force(store, text, file_rules, author="Ada", reason="praise more", now=50.0)


def test_a_version_keeps_who_why_when_and_what(store: Store) -> None:
    """Newest first, and numbered."""
    put(store, HEAVIER)
    second = put(store, FILE)
    assert [v.number for v in store.rules_versions()] == [2, 1]
    assert second == RulesVersion(50.0, "Ada", "praise more", FILE, RULES.rules_hash, RULES.rules_hash, 2)
    assert store.rules_versions()[1].rules_hash == parse_rules(HEAVIER).rules_hash


def test_versions_are_append_only(store: Store) -> None:
    """The database itself refuses."""
    put(store, HEAVIER)
    for statement in ("UPDATE rules_versions SET author = 'Bob'", "DELETE FROM rules_versions"):
        with pytest.raises(StoreError, match="append-only"):
            store._write(lambda conn, sql=statement: conn.execute(sql))


def test_applied_rules_recompute_rewards_and_old_ones_stay(store: Store) -> None:
    """0.5 becomes 0.75 as the second revision, each with the hash of its rules; applying again adds nothing."""
    thumb(store, "a", 1, at=10.0)
    settle(store, RULES, 20.0, SETTLE_S)
    put(store, HEAVIER)
    assert [apply_rules(store, RULES, 60.0, SETTLE_S) for _ in range(2)] == [1, 0]
    assert history(store) == [("d1", 1, 0.5), ("d1", 2, 0.75)]
    assert [r.rules_hash for r in store.rewards_of("c1")] == [RULES.rules_hash, parse_rules(HEAVIER).rules_hash]


def test_a_learner_that_runs_notices_and_uses_the_new_rules(store: Store) -> None:
    """Its next settling computes old rewards anew and new ones by them, each revision once."""
    apply_rules(store, RULES, 5.0, SETTLE_S)
    thumb(store, "a", 1, at=10.0)
    settle(store, RULES, 20.0, SETTLE_S)
    put(store, HEAVIER)
    thumb(store, "b", 1, at=55.0, decision_id="d2")
    assert [settle(store, RULES, 60.0, SETTLE_S) for _ in range(3)] == [2, 0, 0]
    assert history(store) == [("d1", 1, 0.5), ("d1", 2, 0.75), ("d2", 1, 0.75)]
    assert store.count_fresh(1) == 2


def test_a_file_that_was_changed_since_is_in_force_again(store: Store) -> None:
    """Whoever edits rewards.yml means it."""
    put(store, HEAVIER)
    edited = parse_rules(FILE.replace("up: 0.5", "up: 0.25"))
    assert rules_in_force(store, RULES).rules_hash == parse_rules(HEAVIER).rules_hash
    assert rules_in_force(store, edited) is edited


def test_rules_that_do_not_load_are_not_put_in_force(store: Store) -> None:
    """Nothing is stored."""
    with pytest.raises(RulesError):
        put(store, FILE.replace("up: 0.5", "up: 1.5"))
    assert store.rules_versions() == []


def test_a_home_of_an_older_release_is_brought_up_to_date(tmp_path: Path) -> None:
    """A store that was made before rules had versions gets the table and keeps its rows."""
    path = tmp_path / "rejoinder.db"
    with Store(path) as made:
        fill(made)
    with sqlite3.connect(path) as conn:
        conn.execute("DROP TABLE rules_versions")
        conn.execute("DELETE FROM _sqlite_migrations WHERE name = '0002_rules_versions'")
    conn.close()
    with Store(path) as store:
        assert put(store, HEAVIER).number == 1
        assert store.counts()["decisions"] == 2


# --- delays -------------------------------------------------------------------------------------------------------------
def test_a_rule_with_a_delay_waits_and_the_others_do_not(store: Store) -> None:
    """Voted at 10: 0.5 at 13 s, 0.75 at 110 s, and nothing more at 111 s."""
    rules = parse_rules(DELAYED)
    thumb(store, "a", 1, at=10.0)
    assert [settle(store, rules, now, SETTLE_S) for now in (13.0, 109.9, 110.0, 111.0)] == [1, 0, 1, 0]
    assert history(store) == [("d1", 1, 0.5), ("d1", 2, 0.75)]


def test_a_vote_changed_within_the_delay_is_never_heard_by_its_rule(store: Store) -> None:
    """Up at 10, down at 50: at 110 the delayed rule hears nothing, at 150 the down."""
    rules = parse_rules(DELAYED)
    thumb(store, "a", 1, at=10.0)
    settle(store, rules, 20.0, SETTLE_S)
    thumb(store, "b", -1, at=50.0)
    for now in (60.0, 110.0, 150.0):
        settle(store, rules, now, SETTLE_S)
    assert history(store) == [("d1", 1, 0.5), ("d1", 2, -0.5), ("d1", 3, -0.75)]


def test_rules_with_a_delay_reach_what_settled_before_they_came(store: Store) -> None:
    """Applied long after the vote: one revision with both shares in the end."""
    thumb(store, "a", 1, at=10.0)
    settle(store, RULES, 20.0, SETTLE_S)
    put(store, DELAYED)
    apply_rules(store, RULES, 500.0, SETTLE_S)
    settle(store, RULES, 501.0, SETTLE_S)
    assert history(store)[-1] == ("d1", 2, 0.75)


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("vote"), st.sampled_from([-1.0, 0.0, 1.0]), st.sampled_from(["d1", "d2"])),
        st.tuples(st.just("wait"), st.sampled_from([1.0, 5.0, 60.0])),
        st.tuples(st.just("settle")),
        st.tuples(st.just("apply"), st.sampled_from([FILE, HEAVIER, DELAYED])),
    ),
    max_size=25,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=_STEPS)
def test_whatever_happens_the_rewards_are_those_of_the_last_rules(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[object, ...]]
) -> None:
    """Votes, waits, settlings and new rules in any order: in the end the rewards in force are what the rules in force
    make of all signals, revisions count 1, 2, 3, and settling again adds nothing."""
    with Store(tmp_path_factory.mktemp("rules") / "rejoinder.db") as store:
        fill(store)
        now, votes = 100.0, 0
        for name, *given_ in [*steps, ("wait", 500.0)]:
            match name, given_:
                case "vote", [float(value), str(decision_id)]:
                    votes += 1
                    thumb(store, f"k{votes}", value, now, decision_id)
                case "wait", [float(seconds)]:
                    now += seconds
                case "apply", [str(text)]:
                    put(store, text)
                case _:
                    settle(store, RULES, now, SETTLE_S)
        apply_rules(store, RULES, now, SETTLE_S)
        settle(store, RULES, now, SETTLE_S)
        assert settle(store, RULES, now, SETTLE_S) == 0
        rows = store.rewards_of("c1")
        by_place = {(row.decision_id, row.scope): row for row in rows}
        used = rules_in_force(store, RULES)
        earned = rewards_for(store.conversation_decisions("c1"), store.signals("c1"), used)
        assert {place: row.value for place, row in by_place.items() if row.value is not None} == {
            (credit.decision_id, credit.scope): credit.value for credit in earned
        }
        for place in by_place:
            revisions = [row.revision for row in rows if (row.decision_id, row.scope) == place]
            assert revisions == list(range(1, len(revisions) + 1))


# --- texts and trust ----------------------------------------------------------------------------------------------------
def test_settling_knows_the_shown_text_and_the_trust(store: Store) -> None:
    """Five words: 0.1 each. Trust 0.5 in the author halves the thumb of 0.5."""
    rules = parse_rules(
        FILE.split("rules:", maxsplit=1)[0].replace("1", "2") + "rules: {outcome: {solved: 1, not_solved: -1}}\n"
        "rewards: {own: {rules: [{name: t, when: {signal: thumb}, reward: 0.5, weight_by_trust: true},"
        " {name: words, reward: num_words / 10}]}}\n"
    )
    thumb(store, "a", 1, at=10.0)
    settle(store, rules, 20.0, SETTLE_S, trust={"p1": 0.5})
    [reward] = store.rewards_of("c1")
    assert [(term.rule, term.value) for term in reward.terms] == [("own/t", 0.25), ("own/words", 0.6)]


def test_a_rule_that_fails_is_logged_once_and_the_rest_settles(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """Two thumbs, one line, two rewards."""
    rules = parse_rules(DELAYED.replace("0.25 * value, delay_s: 100", "0.25 / (value - 1)"))
    for decision_id in ("d1", "d2"):
        thumb(store, decision_id, 1, at=10.0, decision_id=decision_id)
    with caplog.at_level(logging.WARNING):
        assert settle(store, rules, 20.0, SETTLE_S) == 2
    assert [record.message.split(": ")[:2] for record in caplog.records] == [
        ["a reward rule gave nothing", "late/again"]
    ]
