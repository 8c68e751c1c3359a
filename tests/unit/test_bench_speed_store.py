"""A store filled in bulk is one that a server could have filled, and reading a growing one costs the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.feedback.rules import load_rules
from bot.feedback.settle import settle
from bot.feedback.store import Store
from online_learning.bench.speed_store import TimedStore, fill, rate
from tests.builders import make_decision
from tests.domain_folder import write_domain

LIKE = [make_decision(id="x"), make_decision(id="y", query="another", query_ids=(7, 8))]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Seventy decisions: fourteen conversations, two of them held out."""
    fill(tmp_path / "store.db", LIKE, 0, 70)
    return tmp_path / "store.db"


def test_a_filled_store_reads_as_one_that_was_used(path: Path) -> None:
    """Window, hold-out, thumbs and rewards."""
    with Store(path) as store:
        rows = store.window(store.last_reward_seq(), 100)
        held_out = store.window(store.last_reward_seq(), 100, holdout=True)
        counts = store.counts()
        chat = store.conversation_decisions(rows[0].decision.conversation_id)
    assert (len(rows), len(held_out)) == (60, 10)
    assert {name: counts[name] for name in ("conversations", "decisions", "signals", "rewards")} == {
        "conversations": 14, "decisions": 70, "signals": 70, "rewards": 70
    }  # fmt: skip
    assert [decision.turn for decision in chat] == [1, 2, 3, 4, 5]
    assert [decision.query for decision in chat[:2]] == ["another", "user: Where is my card?"]
    assert sum(row.reward.value == 0.5 for row in (*rows, *held_out)) == 49


def test_nothing_of_a_filled_store_is_left_to_settle_or_to_learn(path: Path, tmp_path: Path) -> None:
    """A thumb that comes afterwards is the only fresh one."""
    rules = load_rules(write_domain(tmp_path / "bank", rewards="version: 1\nrules:\n  thumb: {up: 0.5, down: -0.5}\n"
                                    "  outcome: {solved: 1.0, not_solved: -1.0}\n") / "rewards.yml")  # fmt: skip
    with Store(path) as store:
        update = store.last_update()
        assert update is not None
        assert update.cursor == store.last_reward_seq()
        assert settle(store, rules, 1e9, 0.0) == 0
        rate(store, LIKE[0], 1)
        assert settle(store, rules, 1e12, 0.0) == 1
        assert store.count_fresh(update.cursor) == 1


def test_a_filled_store_goes_on_growing(path: Path) -> None:
    """From where it ended, with a cursor that moves on."""
    fill(path, LIKE, 70, 140)
    with Store(path) as store:
        assert store.counts()["decisions"] == 140
        assert [update.cursor for update in store.updates()] == [70, 140]


def test_reads_are_timed_by_name(path: Path) -> None:
    """Writes are not among them."""
    with TimedStore(path) as store:
        store.window(10, 5)
        rate(store, LIKE[0], 1)
        assert [*store.reads_s] == ["window"]
        assert store.reads_s["window"] > 0
