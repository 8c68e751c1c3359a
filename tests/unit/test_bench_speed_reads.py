"""What the learner reads of the store it parses once, and gets nothing that is out of date or out of order."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.feedback.store import Store
from bot.feedback.store_kept import KeptDecisions
from online_learning.bench.speed_store import fill, rate
from tests.builders import make_decision


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Six conversations of five turns."""
    fill(tmp_path / "store.db", [make_decision(id="x")], 0, 30)
    return tmp_path / "store.db"


def test_decisions_of_many_conversations_are_those_of_each(path: Path) -> None:
    """In the order asked for, by turn; an unknown conversation has none."""
    with Store(path) as store:
        expected = [d for name in ("s3", "s1") for d in store.conversation_decisions(name)]
        assert store.decisions_of(["s3", "nobody", "s1", "s3"]) == expected
        assert [decision.turn for decision in expected] == [1, 2, 3, 4, 5] * 2
        assert store.decisions_of([]) == []


def test_a_decision_is_parsed_once(path: Path) -> None:
    """The same record from window and conversation; another process reads its own (the control)."""
    with Store(path) as store, Store(path) as other:
        first = {row.decision.id: row.decision for row in store.window(30, 100)}
        again = {row.decision.id: row.decision for row in store.window(30, 100)}
        assert all(first[name] is again[name] for name in first)
        assert store.decisions_of(["s1"])[0] is first["s5"]
        assert other.decision("s5") == first["s5"]
        assert other.decision("s5") is not first["s5"]


def test_what_comes_in_later_is_seen(path: Path) -> None:
    """Also a new turn of a conversation that was read before."""
    with Store(path) as store, Store(path) as server:
        assert len(store.decisions_of(["s1"])) == 5
        rate(server, make_decision(), 1)
        assert [decision.id for decision in store.decisions_of(["f1", "s1"])][:2] == ["f1", "s5"]


def test_what_was_wanted_least_lately_goes() -> None:
    """The number kept is bounded."""
    kept = KeptDecisions(2)
    kept.keep({"a": make_decision(id="a"), "b": make_decision(id="b")})
    assert [*kept.among(["a", "c"])] == ["a"]
    kept.keep({"c": make_decision(id="c")})
    assert sorted(kept.among(["a", "b", "c"])) == ["a", "c"]
