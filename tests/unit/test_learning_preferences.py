"""Operators' blind verdicts as evidence: counted by hand, refusing beyond chance, never promoting."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bot.conversation import BASE_VERSION, Decision
from bot.feedback.desk import Doing
from bot.feedback.desk_records import Judged, Pair
from bot.feedback.store import Store
from online_learning.bench.gate_curve import Case, draw_held_out, evidence_of, solve_shift
from online_learning.evidence import hear_verdicts
from online_learning.gate import Evidence, judge
from online_learning.preferences import Places, Preference, margins, preference, upper_tail
from online_learning.statistics import seeded
from tests.builders import make_conversation, make_decision, make_message
from tests.learner_rig import QUICK, Home, open_home, tiny_models

ANA = Doing("operator:ana", 10.0)


@pytest.mark.parametrize(
    ("num", "at_least", "expected"),
    [
        (0, 0, 1.0),
        (5, 5, 1 / 32),
        (4, 4, 1 / 16),
        (5, 4, 6 / 32),  # 5 + 1 ways
        (10, 8, 56 / 1024),  # 45 + 10 + 1
        (10, 9, 11 / 1024),
        (3, 0, 1.0),
    ],
)
def test_the_tail_of_a_fair_coin(num: int, at_least: int, expected: float) -> None:
    """Counted on fingers."""
    assert upper_tail(num, at_least) == expected


def test_a_verdict_counts_where_the_two_prefer_different_acts() -> None:
    """Of six: one won, two lost, three told nothing, an undecided candidate among them being the baseline's loss or not."""
    candidate = np.array([0.3, -0.2, -0.1, 2.0, -1.0, 0.0])
    baseline = np.array([-0.1, 0.4, 0.2, 1.0, -2.0, -0.5])
    found = preference(candidate, baseline)
    assert found == Preference(wins=1, losses=2, alike=3)
    assert found.p_worse == 4 / 8  # two or three heads of three: 3 + 1 ways
    assert found.share == 2 / 5  # Beta(2, 3)


def test_margins_are_of_the_two_acts_alone() -> None:
    """log 0.5 - log 0.2, and log 0.3 - log 0.6."""
    rows = [np.log([0.5, 0.3, 0.2]), np.log([0.3, 0.6, 0.1])]
    assert margins(rows, [Places(0, 2), Places(0, 1)]) == pytest.approx([0.916291, -0.693147], abs=1e-6)
    with pytest.raises(ValueError, match="expected equal shapes"):
        preference(np.zeros(2), np.zeros(3))


def evidence(**against: Preference) -> Evidence:
    """A sound candidate, and what operators say of it."""
    case = Case(points=0.0, churn=0.01, noise="mild", setting="first")
    held_out = draw_held_out(seeded(0, "held out"), 300, solve_shift(case.points, case.churn, case.setting), case)
    return replace(evidence_of(held_out), verdicts=against)


@pytest.mark.parametrize("baseline", ["champion", "start"])
@pytest.mark.parametrize(
    ("wins", "losses", "passes"),
    [(0, 4, True), (0, 5, False), (1, 7, False), (2, 8, True), (8, 2, True), (0, 0, True), (30, 50, False)],
)
def test_whoever_loses_beyond_chance_is_refused(baseline: str, wins: int, losses: int, passes: bool) -> None:
    """4 of 4 happens to one fair coin in 16, 5 of 5 to one in 32; 8 of 10: 5.5 %, 7 of 8: 3.5 %."""
    verdict = judge(evidence(**{baseline: Preference(wins, losses, 3)}))
    assert verdict.passed is passes
    assert [f"against the {baseline}: operators" in reason for reason in verdict.reasons] == ([] if passes else [True])


def test_won_verdicts_promote_nobody() -> None:
    """A hundred won ones do not outweigh one flaw; without the flaw they are not needed: the control."""
    praised = evidence(champion=Preference(100, 0, 0))
    assert not judge(replace(praised, kl_champion=9.0)).passed
    assert judge(praised).passed
    assert judge(evidence()).passed


def test_the_report_says_what_was_heard() -> None:
    """As JSON, in the manifest and with the update; nothing where nobody compared."""
    report = json.loads(json.dumps(judge(evidence(champion=Preference(1, 2, 3))).report, allow_nan=False))
    assert report["verdicts_champion"] == {"wins": 1, "losses": 2, "alike": 3, "p_worse": 0.5, "share": 0.4}
    assert "verdicts_start" not in report
    assert not any("verdicts" in key for key in judge(evidence()).report)


# --- from the store ---------------------------------------------------------------------------------------------------
@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Three questions in three conversations."""
    with Store(tmp_path / "rejoinder.db") as opened:
        for name in ("1", "2", "3"):
            opened.add_conversation(make_conversation(id=f"c{name}"))
            where = {"conversation_id": f"c{name}"}
            reply = make_message(id=f"b{name}", role="bot", text="Hm.", decision_id=f"d{name}", **where)
            opened.add_reply(reply, make_decision(id=f"d{name}", **where))
        yield opened


def verdict(store: Store, doing: Doing, decision: str, verdict: str) -> None:
    """A pair of the two articles, judged."""
    pair = Pair(f"pair_{doing.name}{decision}", 1.0, decision, "v000000", "answer:card_arrival", "v000001", "handoff")
    store.desk.add_pair(pair)
    store.desk.judge_pair(doing, pair.id, verdict)


def test_the_newest_verdicts_that_found_one_better_are_heard(store: Store) -> None:
    """Not "both" or "neither"; not of a person who does not want it, as long as they do not."""
    for decision, found in (("d1", "left"), ("d2", "right"), ("d3", "both")):
        verdict(store, ANA, decision, found)
    first, second = Judged("d1", "answer:card_arrival", "handoff"), Judged("d2", "handoff", "answer:card_arrival")
    assert sorted(store.desk.judged(), key=lambda found: found.decision_id) == [first, second]
    store.update_conversation("c2", learn_ok=False)
    assert store.desk.judged() == [first]
    assert store.desk.judged(limit=0) == []


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def home(tmp_path: Path, models: Path) -> Iterator[Home]:
    with open_home(tmp_path, models) as opened:
        yield opened


PLEASE = "my card please"
"""The retriever shows `lost_card` (0.91); thumbs say that `card_arrival` (0.06) was meant."""
LOST, ARRIVAL = "answer:lost_card", "answer:card_arrival"


def judged(home: Home, decision: Decision, better: str, worse: str, name: str) -> None:
    home.store.desk.add_pair(Pair(f"pair_{name}", 1.0, decision.id, BASE_VERSION, better, "v000009", worse))
    home.store.desk.judge_pair(ANA, f"pair_{name}", "left")


def test_a_question_and_two_acts_count_once_and_what_is_gone_not_at_all(home: Home) -> None:
    """The newest word on it; an act that was not legal, and a choice that was erased, are passed over."""
    asked = home.say(PLEASE, "card_arrival")
    right, wrong = asked.legal[0].act, asked.legal[1].act
    judged(home, asked, wrong, right, "a")
    home.store.desk.add_pair(Pair("pair_b", 1.0, asked.id, BASE_VERSION, right, "v000009", wrong))
    home.store.desk.judge_pair(replace(ANA, at=30.0), "pair_b", "left")
    judged(home, asked, right, "answer:unheard_of", "c")
    gone = home.say("rate for euros", "exchange_rate")
    judged(home, gone, gone.legal[0].act, gone.legal[1].act, "d")
    home.store.erase_conversation(gone.conversation_id, author="person", at=40.0)
    found = hear_verdicts(home.resumed().learner, home.store)
    assert ([decision.id for decision in found.decisions], list(found.places)) == ([asked.id], [Places(0, 1)])
    assert found.champion == pytest.approx([asked.logprobs[0] - asked.logprobs[1]], abs=1e-4)


@pytest.mark.parametrize("told", [True, False])
def test_an_update_that_unlearns_what_operators_found_better_is_refused(home: Home, told: bool) -> None:
    """Five verdicts for what the champion prefers, and thumbs against it. Untold, the same candidate is published."""
    asked = [home.say(PLEASE, "lost_card") for _ in range(5)]
    for n, decision in enumerate(asked if told else []):
        judged(home, decision, LOST, ARRIVAL, str(n))
    home.teach([(PLEASE, "card_arrival", 1), (PLEASE, "lost_card", -1)] * 6)
    assert home.resumed(config=replace(QUICK, learning_rate=2e-2)).step()
    update = home.store.updates()[-1]
    if not told:
        assert home.probability(PLEASE, "card_arrival", update.version) > 0.5
    gate = update.metrics["gate"]
    assert update.outcome == ("refused" if told else "published")
    assert ("verdicts_champion" in gate) is told
    if told:
        assert gate["verdicts_champion"] == {"wins": 0, "losses": 5, "alike": 0, "p_worse": 1 / 32, "share": 1 / 7}
        assert "operators found the other answer better in 5 of 5 verdicts" in gate["reasons"][0]
