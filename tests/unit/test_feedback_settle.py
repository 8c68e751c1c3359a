"""Settling: signals become reward revisions once, whatever interrupts it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bot.conversation import Reward, SignalKind
from bot.errors import ConflictError
from bot.feedback import settle as settling
from bot.feedback.rewards import rewards_for
from bot.feedback.rules import OutcomeRule, Rules, RuleSet, ThumbRule
from bot.feedback.settle import apply_rules, resettle_all, settle
from bot.feedback.store import Store
from tests.builders import make_conversation, make_decision, make_message, make_reward, make_signal

RULES = Rules(version=1, rules=RuleSet(thumb=ThumbRule(0.5, -0.5), outcome=OutcomeRule(1.0, -1.0)))
HEAVIER = Rules(version=1, rules=RuleSet(thumb=ThumbRule(0.75, -0.5), outcome=OutcomeRule(1.0, -1.0)))
SETTLE_S = 3.0


def fill(store: Store) -> None:
    """Conversations c1 and c2, two decisions each: c1d1 at 1 s, c1d2 at 2 s."""
    for name in ("c1", "c2"):
        store.add_conversation(make_conversation(id=name))
        for turn in (1, 2):
            decision = make_decision(id=f"{name}d{turn}", conversation_id=name, turn=turn, created_at=float(turn))
            reply = make_message(id=f"{name}m{turn}", conversation_id=name, role="bot", decision_id=decision.id)
            store.add_reply(reply, decision)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """See `fill`."""
    with Store(tmp_path / "rejoinder.db") as opened:
        fill(opened)
        yield opened


def thumb(store: Store, key: str, value: float, at: float, decision_id: str = "c1d1") -> None:
    """A vote at a time."""
    signal = make_signal(key=key, value=value, created_at=at, decision_id=decision_id, conversation_id=decision_id[:2])
    store.add_signal(signal)


def history(store: Store, conversation_id: str = "c1") -> list[tuple[str, int, float | None]]:
    """[(decision id, revision, value)] in the order appended."""
    return [(r.decision_id, r.revision, r.value) for r in store.rewards_of(conversation_id)]


def test_a_signal_counts_once_it_has_settled(store: Store) -> None:
    """At 10 s with a delay of 3 s: not at 12.9, at 13; and only once."""
    thumb(store, "a", 1, at=10.0)
    assert settle(store, RULES, 12.9, SETTLE_S) == 0
    assert settle(store, RULES, 13.0, SETTLE_S) == 1
    assert settle(store, RULES, 99.0, SETTLE_S) == 0
    assert history(store) == [("c1d1", 1, 0.5)]
    assert store.settled_seq() == 1


def test_a_reward_says_where_it_comes_from(store: Store) -> None:
    """Rules hash, time, and the signal of each term."""
    thumb(store, "a", 1, at=10.0)
    settle(store, RULES, 20.0, SETTLE_S)
    [reward] = store.rewards_of("c1")
    assert (reward.rules_hash, reward.settled_at, reward.scope) == (RULES.rules_hash, 20.0, "reply")
    assert [(term.rule, term.value, term.signal_seq) for term in reward.terms] == [("thumb", 0.5, 1)]


def test_the_rules_own_delay_wins(store: Store) -> None:
    """`settle_s` in the file overrides the settings."""
    thumb(store, "a", 1, at=10.0)
    patient = Rules(version=1, rules=RULES.rules, settle_s=100.0)
    assert settle(store, patient, 50.0, SETTLE_S) == 0
    assert settle(store, patient, 110.0, SETTLE_S) == 1


def test_a_vote_changed_before_it_settled_never_counts(store: Store) -> None:
    """Up at 10, down at 12: at 14 the first has had its time, and yet it is not a reward."""
    thumb(store, "a", 1, at=10.0)
    thumb(store, "b", -1, at=12.0)
    assert settle(store, RULES, 14.0, SETTLE_S) == 0
    assert settle(store, RULES, 15.0, SETTLE_S) == 1
    assert history(store) == [("c1d1", 1, -0.5)]


def test_a_vote_changed_later_is_a_new_revision(store: Store) -> None:
    """Withdrawn, then given again."""
    for key, value, at in (("a", 1, 10.0), ("b", 0, 20.0), ("c", -1, 30.0)):
        thumb(store, key, value, at)
        settle(store, RULES, at + SETTLE_S, SETTLE_S)
    assert history(store) == [("c1d1", 1, 0.5), ("c1d1", 2, None), ("c1d1", 3, -0.5)]


def test_the_same_vote_pressed_again_is_no_revision(store: Store) -> None:
    """Or one person could make the learner read one opinion many times."""
    for i in range(5):
        thumb(store, f"k{i}", 1, at=10.0 * i)
        settle(store, RULES, 10.0 * i + SETTLE_S, SETTLE_S)
    assert history(store) == [("c1d1", 1, 0.5)]
    assert store.settled_seq() == 5


def test_conversations_settle_apart(store: Store) -> None:
    """One call, both."""
    thumb(store, "a", 1, at=10.0, decision_id="c1d2")
    thumb(store, "b", -1, at=10.0, decision_id="c2d1")
    assert settle(store, RULES, 20.0, SETTLE_S) == 2
    assert (history(store, "c1"), history(store, "c2")) == ([("c1d2", 1, 0.5)], [("c2d1", 1, -0.5)])


def test_many_signals_settle_page_by_page(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """With pages of two signals, five votes of one conversation end where one page would."""
    monkeypatch.setattr(settling, "PAGE", 2)
    for i in range(5):
        thumb(store, f"k{i}", (-1) ** i, at=10.0, decision_id=f"c1d{i % 2 + 1}")
    settle(store, RULES, 20.0, 0.0)
    assert store.settled_seq() == 5
    assert {d: v for d, _, v in history(store)} == {"c1d1": 0.5, "c1d2": -0.5}


def test_a_change_of_rules_recomputes_what_was_rated(store: Store) -> None:
    """0.5 becomes 0.75 as a new revision; what did not change gets none; unsettled signals stay unsettled."""
    thumb(store, "a", 1, at=10.0, decision_id="c1d1")
    thumb(store, "b", -1, at=10.0, decision_id="c2d1")
    settle(store, RULES, 20.0, SETTLE_S)
    thumb(store, "c", 1, at=20.0, decision_id="c1d2")
    assert resettle_all(store, HEAVIER, 21.0, SETTLE_S) == 1
    assert resettle_all(store, HEAVIER, 21.0, SETTLE_S) == 0
    assert history(store) == [("c1d1", 1, 0.5), ("c1d1", 2, 0.75)]
    assert (history(store, "c2"), store.settled_seq()) == ([("c2d1", 1, -0.5)], 2)
    assert store.rewards_of("c1")[-1].rules_hash == HEAVIER.rules_hash


def test_rules_are_applied_once_for_each_change(store: Store) -> None:
    """The store remembers which were applied last."""
    thumb(store, "a", 1, at=10.0)
    settle(store, RULES, 20.0, SETTLE_S)
    assert [apply_rules(store, rules, 21.0, SETTLE_S) for rules in (RULES, HEAVIER, HEAVIER, RULES)] == [0, 1, 0, 1]
    assert [value for _, _, value in history(store)] == [0.5, 0.75, 0.5]


class KilledStore(Store):
    """Dies in `put_rewards`: before the commit, or after it without having heard."""

    kill_before = False
    kill_after = False

    def put_rewards(self, rewards: Sequence[Reward], settled_seq: int) -> int:
        """As the real one, but for the kill."""
        if self.kill_before:
            raise ConnectionAbortedError
        last = super().put_rewards(rewards, settled_seq)
        if self.kill_after:
            raise ConnectionAbortedError
        return last


@pytest.mark.parametrize("when", ["kill_before", "kill_after"])
def test_a_killed_settling_starts_again_and_doubles_nothing(tmp_path: Path, when: str) -> None:
    """Rewards and cursor are one transaction."""
    with KilledStore(tmp_path / "rejoinder.db") as store:
        fill(store)
        thumb(store, "a", 1, at=10.0)
        setattr(store, when, True)
        with pytest.raises(ConnectionAbortedError):
            settle(store, RULES, 20.0, SETTLE_S)
        setattr(store, when, False)
        settle(store, RULES, 20.0, SETTLE_S)
        assert history(store) == [("c1d1", 1, 0.5)]


def test_a_settler_that_was_overtaken_is_told(store: Store) -> None:
    """Another process wrote revision 1 from other signals: ours is refused, the next call builds on theirs."""
    thumb(store, "a", 1, at=10.0)
    stale = [make_reward(decision_id="c1d1", value=-0.5)]
    settle(store, RULES, 20.0, SETTLE_S)
    with pytest.raises(ConflictError):
        store.put_rewards(stale, 1)
    assert settle(store, RULES, 20.0, SETTLE_S) == 0


_VOTE = st.tuples(
    st.just("vote"),
    st.sampled_from([-1.0, 0.0, 1.0]),
    st.sampled_from(["c1d1", "c1d2", "c2d1", "c2d2", "c1", "c2"]),
    st.sampled_from(["p1", "p2"]),
)
_STEPS = st.lists(
    st.one_of(
        _VOTE,
        st.tuples(st.just("wait"), st.floats(0.0, 5.0)),
        st.tuples(st.just("settle"), st.sampled_from(["", "kill_before", "kill_after"])),
        st.tuples(st.just("learn")),
    ),
    max_size=30,
)


class Loop:
    """A store, a clock, and a learner's cursor, moved by steps."""

    def __init__(self, store: KilledStore) -> None:
        self.store = store
        self.now = 100.0
        self.num_votes = 0
        self.cursor = 0
        self.consumed: list[int] = []
        self.windows: list[tuple[int, object]] = []

    def vote(self, value: float, target: str, author: str) -> None:
        """A thumb on a decision, or an outcome of a conversation."""
        about = {"decision_id": target, "kind": SignalKind.THUMB}
        if len(target) == 2:
            about = {"decision_id": "", "kind": SignalKind.OUTCOME}
            value = max(value, 0.0)
        self.num_votes += 1
        signal = make_signal(
            key=f"k{self.num_votes}",
            value=value,
            author=author,
            conversation_id=target[:2],
            created_at=self.now,
            **about,
        )
        self.store.add_signal(signal)

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    def settle(self, kill: str = "") -> None:
        """Settle, or die trying."""
        self.store.kill_before, self.store.kill_after = kill == "kill_before", kill == "kill_after"
        with suppress(ConnectionAbortedError):
            settle(self.store, RULES, self.now, SETTLE_S)
        self.store.kill_before = self.store.kill_after = False

    def learn(self) -> None:
        """Take what is fresh, and move the cursor."""
        until = self.store.last_reward_seq()
        self.consumed.append(self.store.count_fresh(self.cursor) - self.store.count_fresh(until))
        self.windows.append((until, self.store.window(until, 100)))
        self.cursor = until


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=_STEPS)
def test_whatever_happens_rewards_are_exactly_what_the_signals_say(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[Any, ...]]
) -> None:
    """Votes, waits, kills and learning in any order; then everything settles.

    1. The rewards in force are those the rules give for all signals at once.
    2. Revisions count 1, 2, 3... per decision and scope, and each says something new.
    3. The learner met each revision once, and its old windows read the same again.
    """
    with KilledStore(tmp_path_factory.mktemp("loop") / "rejoinder.db") as store:
        fill(store)
        loop = Loop(store)
        for name, *arguments in [*steps, ("wait", 10.0), ("settle",), ("learn",)]:
            getattr(loop, name)(*arguments)

        rows = [reward for name in ("c1", "c2") for reward in store.rewards_of(name)]
        by_identity: dict[tuple[str, str], list[Reward]] = {}
        for reward in rows:
            by_identity.setdefault((reward.decision_id, reward.scope), []).append(reward)
        for revisions in by_identity.values():
            assert [reward.revision for reward in revisions] == list(range(1, len(revisions) + 1))
        in_force = {key: revisions[-1].value for key, revisions in by_identity.items()}
        expected = {
            (credit.decision_id, credit.scope): credit.value
            for name in ("c1", "c2")
            for credit in rewards_for(store.conversation_decisions(name), store.signals(name), RULES)
        }
        assert {key: value for key, value in in_force.items() if value is not None} == expected
        assert sum(loop.consumed) == len(rows)
        assert [store.window(until, 100) for until, _ in loop.windows] == [seen for _, seen in loop.windows]
