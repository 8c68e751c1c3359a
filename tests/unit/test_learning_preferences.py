"""Operators' blind verdicts as evidence: counted by hand, refusing beyond chance, never promoting."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bot.conversation import BASE_VERSION, Decision
from bot.feedback.desk import Doing
from bot.feedback.desk_records import Judged, Pair
from bot.feedback.store import Store, UpdateRow
from online_learning.bench.gate_curve import Case, draw_held_out, evidence_of, solve_shift
from online_learning.evidence import Verdicts, hear_verdicts
from online_learning.gate import Evidence, judge
from online_learning.preferences import Places, Preference, Source, Vote, e_value, margins, preference
from online_learning.statistics import seeded
from tests.builders import make_conversation, make_decision, make_message
from tests.learner_rig import LENIENT, QUICK, Home, open_home

ANA, BO = Doing("operator:ana", 10.0), Doing("operator:bo", 30.0)


@pytest.mark.parametrize(
    ("losses", "wins", "expected"),
    [
        (0, 0, 1.0),
        (1, 0, 3 / 2),  # (1 + 2) / (2 * 1)
        (0, 1, 1 / 2),  # 1 / (2 * 1)
        (1, 1, 4 / 6),  # (1 + 3) / (3 * 2)
        (7, 0, 255 / 8),
        (8, 0, 511 / 9),
        (8, 2, (2048 - 1 - 11 - 55) / (11 * 45)),
    ],
)
def test_the_evidence_of_votes(losses: int, wins: int, expected: float) -> None:
    """Counted by binomial coefficients: the integral of 2 (2p)^losses (2 - 2p)^wins over p from 1/2 to 1."""
    assert e_value(losses, wins) == pytest.approx(expected, rel=1e-12)
    p = 0.5 + (np.arange(100_000) + 0.5) / 200_000
    assert e_value(losses, wins) == pytest.approx(float(np.mean((2 * p) ** losses * (2 - 2 * p) ** wins)), rel=1e-6)


@pytest.mark.parametrize("num", [1, 4, 9])
def test_evidence_is_fair_to_who_is_not_worse(num: int) -> None:
    """Its mean over fair coins is 1, and less where a win is likelier than a loss."""
    means = [
        sum(comb(num, k) * p**k * (1 - p) ** (num - k) * e_value(k, num - k) for k in range(num + 1))
        for p in (0.5, 0.3)
    ]
    assert means[0] == pytest.approx(1.0)
    assert means[1] < 1.0


def on(*topics: str, author: str = "ana") -> list[Source]:
    return [Source(frozenset((topic, "handoff")), author) for topic in topics]


def test_a_verdict_counts_where_the_two_prefer_different_acts() -> None:
    """Of six: one won, two lost, three told nothing, an undecided candidate among them being the baseline's loss or not."""
    candidate = np.array([0.3, -0.2, -0.1, 2.0, -1.0, 0.0])
    baseline = np.array([-0.1, 0.4, 0.2, 1.0, -2.0, -0.5])
    found = preference(candidate, baseline, on(*"abcdef"))
    assert found == Preference((Vote(True, "ana"), Vote(False, "ana"), Vote(False, "ana")), alike=3, num_authors=1)
    assert (found.wins, found.losses) == (1, 2)
    assert found.e_worse == pytest.approx(11 / 12)  # (1 + 4 + 6) / (4 * 3)
    assert found.share == 2 / 5  # Beta(2, 3)


def test_a_topic_has_one_vote_and_an_author_one_voice_there() -> None:
    """Ana 3 : 1 against, Bo and Cy once for: won. Two who are even, and one who is with herself: no vote."""
    said = [("a", "ana", -1), ("a", "ana", -1), ("a", "ana", -1), ("a", "ana", 1), ("a", "bo", 1), ("a", "cy", 1)]
    said += [("b", "ana", 1), ("b", "bo", -1), ("c", "ana", 1), ("c", "ana", -1), ("d", "bo", -1)]
    margins_B = np.array([float(sign) for _, _, sign in said])
    sources = [source for topic, author, _ in said for source in on(topic, author=author)]
    assert preference(margins_B, -margins_B, sources) == Preference((Vote(True), Vote(False, "bo")), 0, 3)


def test_margins_are_of_the_two_acts_alone() -> None:
    """log 0.5 - log 0.2, and log 0.3 - log 0.6."""
    rows = [np.log([0.5, 0.3, 0.2]), np.log([0.3, 0.6, 0.1])]
    assert margins(rows, [Places(0, 2), Places(0, 1)]) == pytest.approx([0.916291, -0.693147], abs=1e-6)
    with pytest.raises(ValueError, match="expected equal lengths"):
        preference(np.zeros(2), np.zeros(3), on("a", "b"))
    with pytest.raises(ValueError, match="expected equal lengths"):
        preference(np.zeros(2), np.zeros(2), on("a"))


def evidence(**against: Preference) -> Evidence:
    """A sound candidate, and what operators say of it."""
    case = Case(points=0.0, churn=0.01, noise="mild", setting="first")
    held_out = draw_held_out(seeded(0, "held out"), 300, solve_shift(case.points, case.churn, case.setting), case)
    return replace(evidence_of(held_out), verdicts=against)


def heard(wins: int, losses: int, alike: int = 0) -> Preference:
    """By two operators, each with a voice on every topic."""
    return Preference((Vote(True),) * wins + (Vote(False),) * losses, alike, num_authors=2)


@pytest.mark.parametrize("baseline", ["champion", "start"])
@pytest.mark.parametrize(
    ("wins", "losses", "passes"),
    [(0, 7, True), (0, 8, False), (1, 10, True), (1, 11, False), (8, 2, True), (0, 0, True), (30, 50, True)],
)
def test_whoever_loses_beyond_chance_is_refused(baseline: str, wins: int, losses: int, passes: bool) -> None:
    """E-values from 40 on: 255 / 8 = 32 and 511 / 9 = 57; of 10 : 1, (4096 - 13) / 132 = 31, of 11 : 1, 8178 / 156 = 52."""
    verdict = judge(evidence(**{baseline: heard(wins, losses, 3)}))
    assert verdict.passed is passes
    assert [f"against the {baseline}: operators" in reason for reason in verdict.reasons] == ([] if passes else [True])


def test_won_verdicts_promote_nobody() -> None:
    """A hundred won ones do not outweigh one flaw; without the flaw they are not needed: the control."""
    praised = evidence(champion=heard(100, 0))
    assert not judge(replace(praised, kl_champion=9.0)).passed
    assert judge(praised).passed
    assert judge(evidence()).passed


def test_the_report_says_what_was_heard() -> None:
    """As JSON, in the manifest and with the update; nothing where nobody compared."""
    report = json.loads(json.dumps(judge(evidence(champion=heard(0, 1, 3))).report, allow_nan=False))
    expected = {"wins": 0, "losses": 1, "alike": 3, "operators": 2, "e_worse": 1.5, "share": 1 / 3}
    assert report["verdicts_champion"] == expected
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
    store.desk.add_pair(doing, pair)
    store.desk.judge_pair(doing, pair.id, verdict)


def test_the_newest_verdicts_that_found_one_better_are_heard(store: Store) -> None:
    """Not "both" or "neither"; not of a person who does not want it, as long as they do not."""
    for decision, found in (("d1", "left"), ("d2", "right"), ("d3", "both")):
        verdict(store, ANA, decision, found)
    first = Judged("d1", "answer:card_arrival", "handoff", "operator:ana")
    second = Judged("d2", "handoff", "answer:card_arrival", "operator:ana")
    assert sorted(store.desk.judged(), key=lambda found: found.decision_id) == [first, second]
    store.update_conversation("c2", learn_ok=False)
    assert store.desk.judged() == [first]
    assert store.desk.judged(limit=0) == []
    assert store.desk.judged(since=ANA.at) == [first]
    assert store.desk.judged(since=ANA.at + 1) == []


PLEASE = "my card please"
"""The retriever shows `lost_card` (0.91); thumbs say that `card_arrival` (0.06) was meant."""
LOST, ARRIVAL = "answer:lost_card", "answer:card_arrival"


def judged(home: Home, decision: Decision, better: str, worse: str, name: str, doing: Doing = ANA) -> None:
    pair = Pair(f"pair_{name}", 1.0, decision.id, BASE_VERSION, better, "v000009", worse)
    home.store.desk.add_pair(doing, pair)
    home.store.desk.judge_pair(doing, f"pair_{name}", "left")


def heard_at(home: Home, since: float = 0.0) -> Verdicts:
    """By a new learner, every question taken for one that re-scores."""
    return hear_verdicts(home.resumed().learner, home.store, since, list)


def test_a_question_and_two_acts_count_once_and_what_is_gone_not_at_all(home: Home) -> None:
    """An author's newest word on it; an act that was not legal, and a choice that was erased, are passed over."""
    asked = home.say(PLEASE, "card_arrival")
    right, wrong = asked.legal[0].act, asked.legal[1].act
    judged(home, asked, wrong, right, "a")
    judged(home, asked, right, wrong, "b", replace(ANA, at=30.0))
    judged(home, asked, right, "answer:unheard_of", "c")
    gone = home.say("rate for euros", "exchange_rate")
    judged(home, gone, gone.legal[0].act, gone.legal[1].act, "d")
    home.store.erase_conversation(gone.conversation_id, author="person", at=40.0)
    found = heard_at(home)
    assert ([decision.id for decision in found.decisions], list(found.places)) == ([asked.id], [Places(0, 1)])
    assert found.sources == [Source(frozenset((right, wrong)), ANA.actor)]
    assert found.champion == pytest.approx([asked.logprobs[0] - asked.logprobs[1]], abs=1e-4)


def test_authors_are_heard_apart_newest_first_and_none_from_before_the_window(home: Home) -> None:
    """Two on one question, at 10 s and at 30 s; from 20 s on the later one alone."""
    asked = home.say(PLEASE, "card_arrival")
    judged(home, asked, LOST, ARRIVAL, "a")
    judged(home, asked, ARRIVAL, LOST, "b", BO)
    assert [source.author for source in heard_at(home).sources] == [BO.actor, ANA.actor]
    assert [source.author for source in heard_at(home, since=20.0).sources] == [BO.actor]


RATE, EUROS = "rate for euros", "exchange_rate"
SWAPPED = [(PLEASE, "card_arrival", 1), (PLEASE, "lost_card", -1), (RATE, "close_account", 1), (RATE, EUROS, -1)] * 6
"""Thumbs that turn the policy on two topics."""
TWO_ARE_ENOUGH = replace(LENIENT, max_false_refusals=0.9)
"""Two lost topics have an e-value of 7/3, over 2 / .9."""


def update_after(home: Home, **overrides: Any) -> UpdateRow:
    """One update of a learner that moves far; what thumbs say is in `SWAPPED`."""
    home.teach(SWAPPED)
    assert home.resumed(
        **{"config": replace(QUICK, learning_rate=2e-2), "thresholds": TWO_ARE_ENOUGH} | overrides
    ).step()
    return home.store.updates()[-1]


def false(home: Home, question: str) -> dict[str, Any]:
    """Log-probabilities that no version gives: all acts alike."""
    num = len(home.outlook(question)[0].legal)
    return {"logprobs": (-float(np.log(num)),) * num}


def judge_both(home: Home, *, rescoring: bool = True) -> None:
    """Ana on one topic and Bo on the other, for what the fresh install prefers."""
    first = home.say(PLEASE, "lost_card", **({} if rescoring else false(home, PLEASE)))
    second = home.say(RATE, EUROS, **({} if rescoring else false(home, RATE)))
    judged(home, first, LOST, ARRIVAL, "ana")
    judged(home, second, f"answer:{EUROS}", "answer:close_account", "bo", BO)


@pytest.mark.parametrize("told", [True, False])
def test_an_update_that_unlearns_what_operators_found_better_is_refused(home: Home, told: bool) -> None:
    """Verdicts of two for what the champion prefers, and thumbs against it. Untold, the same candidate is published."""
    if told:
        judge_both(home)
    update = update_after(home)
    gate = update.metrics["gate"]
    assert update.outcome == ("refused" if told else "published")
    assert ("verdicts_champion" in gate) is told
    if told:
        found = gate["verdicts_champion"]
        assert (found["wins"], found["losses"], found["operators"]) == (0, 2, 2)
        assert found["e_worse"] == pytest.approx(7 / 3)
        assert "operators found the other answer better on 2 of 2 topics" in gate["reasons"][0]


def test_verdicts_on_choices_that_do_not_rescore_judge_nothing(home: Home) -> None:
    """Stored log-probabilities that no version gives: the update that the same verdicts refuse is published."""
    judge_both(home, rescoring=False)
    update = update_after(home)
    assert update.outcome == "published"
    assert "verdicts_champion" not in update.metrics["gate"]


def test_verdicts_older_than_a_full_window_judge_nothing(tmp_path: Path, models: Path) -> None:
    """They are of 1970, the window's oldest reply of today; a window that is not full yet reaches back to the beginning."""
    with open_home(tmp_path, models, learn={"window": 20}) as home:
        judge_both(home)
        update = update_after(home)
    assert (update.outcome, "verdicts_champion" in update.metrics["gate"]) == ("published", False)


def test_five_clicks_on_one_question_do_not_stop_learning(home: Home) -> None:
    """The gate as it is shipped, but for the distance: thumbs that say the contrary are learned."""
    for n in range(5):
        judged(home, home.say(PLEASE, "lost_card"), LOST, ARRIVAL, str(n))
    update = update_after(home, thresholds=LENIENT)
    assert update.metrics["gate"]["verdicts_champion"]["losses"] == 1
    assert update.outcome == "published"
    assert home.probability(PLEASE, "card_arrival", update.version) > 0.5


def test_a_held_out_row_that_once_failed_to_rescore_never_judges(home: Home) -> None:
    """Neither in the update that finds it nor in the next, which knows it already."""
    home.vote(home.say(PLEASE, "lost_card", holdout=True, **false(home, PLEASE)), 1)
    loop = home.resumed()
    for _ in range(2):
        home.teach(SWAPPED)
        assert loop.step()
    assert [update.metrics["gate"]["held_out_rows"] for update in home.store.updates()] == [0, 0]
